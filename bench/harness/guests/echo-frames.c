/* An executable that speaks the frames of the protocol, without an interpreter: sends back what it
 * gets. The numbers are those of include/legatus_module.h. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DESCRIBE = 2, EXECUTE = 3, MESSAGE = 5, END = 6, DESCRIPTION = 33, PULL = 34, DONE = 36 };

static unsigned char buffer[8 + 2200000];

static int whole(ssize_t (*move)(int, void *, size_t), int file, unsigned char *at, size_t left)
{
    while (left > 0) {
        ssize_t moved = move(file, at, left);
        if (moved <= 0)
            return 0;
        at += moved;
        left -= (size_t)moved;
    }
    return 1;
}

static ssize_t put(int file, void *at, size_t length)
{
    return write(file, at, length);
}

static void give(int kind, size_t length)
{
    uint32_t size = (uint32_t)length;
    memset(buffer, 0, 8);
    memcpy(buffer, &size, 4);
    buffer[4] = (unsigned char)kind;
    if (!whole(put, 1, buffer, 8 + length))
        exit(1);
}

static void give_text(int kind, const char *text)
{
    memcpy(buffer + 8, text, strlen(text));
    give(kind, strlen(text));
}

static int take(size_t *length)
{
    uint32_t size;
    if (!whole(read, 0, buffer, 8))
        exit(1);
    memcpy(&size, buffer, 4);
    if (size > sizeof buffer - 8 || !whole(read, 0, buffer + 8, size))
        exit(1);
    *length = size;
    return buffer[4];
}

static void pull(uint32_t more)
{
    memcpy(buffer + 8, &more, 4);
    give(PULL, 4);
}

int main(void)
{
    size_t length;
    int kind = take(&length);
    if (kind == DESCRIBE) {
        give_text(DESCRIPTION, "{\"protocol\":1,\"modules\":[{\"name\":\"echo-frames\",\"version\":"
                               "\"1.0.0\",\"summary\":\"Send back standard input\",\"commander\":true}]}");
        return 0;
    }
    if (kind != EXECUTE)
        return 2;
    pull(4);
    for (;;) {
        kind = take(&length);
        if (kind == END)
            break;
        if (kind != MESSAGE)
            continue;
        give(MESSAGE, length);
        pull(1);
    }
    give_text(DONE, "{\"exit\":0}");
    return 0;
}
