/* tail: the end of a file on the server, and what is added to it. A library for Legatus.
 *
 *   legatus tail HOST [-n LINES] [-f] [--from BYTE] FILE
 *
 * With -f it follows the file until it is interrupted, also when the file is rotated away or cut
 * off. --from continues at a place that was told before: the last line of the log (level info) says
 * how far it came.
 */
#include "legatus_module.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK (256 * 1024)

static legatus_bytes text(const char *text)
{
    legatus_bytes bytes = {(const uint8_t *)text, strlen(text)};
    return bytes;
}

struct request {
    char path[4096];
    long lines;
    long long from; /* -1: by lines */
    int follow;
};

static int32_t fail(const legatus_host *host, const char *what, const char *on, const char *why)
{
    char message[4500];
    snprintf(message, sizeof message, "%s %s%s%s", what, on, *why ? ": " : "", why);
    host->fail(host->context, text(message), text(""));
    return LEGATUS_FAULT;
}

/* The value of an argument as text; 0 if it is too long or holds a zero. */
static int copy(legatus_bytes value, char *to, size_t room)
{
    if (value.length >= room || memchr(value.data, 0, value.length))
        return 0;
    memcpy(to, value.data, value.length);
    to[value.length] = 0;
    return 1;
}

static int number(legatus_bytes value, long long *to)
{
    char digits[24], *end;
    if (!copy(value, digits, sizeof digits) || *digits < '0' || *digits > '9')
        return 0;
    errno = 0;
    *to = strtoll(digits, &end, 10);
    return !*end && !errno;
}

static int understand(const legatus_call *call, struct request *request)
{
    long long value;
    *request = (struct request){.lines = 10, .from = -1};
    for (size_t i = 0; i < call->argument_count; i++) {
        char word[4096];
        if (!copy(call->arguments[i], word, sizeof word))
            return 0;
        if (!strcmp(word, "--follow")) {
            request->follow = 1;
        } else if (!strcmp(word, "--lines") || !strcmp(word, "--from")) {
            if (i + 1 >= call->argument_count || !number(call->arguments[++i], &value))
                return 0;
            if (!strcmp(word, "--lines"))
                request->lines = (long)value;
            else
                request->from = value;
        } else {
            strcpy(request->path, word);
        }
    }
    return *request->path != 0;
}

/* The place where the last lines begin. */
static off_t last_lines(int file, off_t size, long lines)
{
    char block[8192];
    long seen = 0;
    off_t end = size;
    if (lines == 0)
        return size;
    while (end > 0) {
        off_t start = end > (off_t)sizeof block ? end - (off_t)sizeof block : 0;
        ssize_t got = pread(file, block, (size_t)(end - start), start);
        if (got <= 0)
            return start;
        for (ssize_t i = got - 1; i >= 0; i--) {
            /* The line break at the very end ends the last line. */
            if (block[i] == '\n' && start + i != size - 1 && ++seen == lines)
                return start + i + 1;
        }
        end = start;
    }
    return 0;
}

/* Sends what there is from a place on; the new place, or -1 when nobody listens. */
static off_t send_rest(const legatus_host *host, int file, off_t place, char *buffer)
{
    for (;;) {
        ssize_t got = pread(file, buffer, CHUNK, place);
        if (got <= 0)
            return place;
        legatus_bytes chunk = {(const uint8_t *)buffer, (size_t)got};
        if (host->send(host->context, chunk) != LEGATUS_OK)
            return -1;
        place += got;
    }
}

/* Follows a file; 0 when the call was cancelled or nobody listens. */
static void follow(const legatus_host *host, struct request *request, int *file, off_t *place,
                   char *buffer)
{
    for (;;) {
        struct stat now, open_one;
        int other;
        uint32_t ready = host->wait(host->context, 250);
        if (ready & LEGATUS_IS_CANCELLED)
            return;
        if (ready & LEGATUS_MESSAGE_READY) {
            /* Nothing that the caller says concerns us. */
            legatus_bytes message;
            host->receive(host->context, &message);
        }
        if (fstat(*file, &open_one) == 0 && open_one.st_size < *place) {
            host->log(host->context, LEGATUS_LOG_WARN, text("the file was cut off"));
            *place = 0;
        }
        off_t next = send_rest(host, *file, *place, buffer);
        if (next < 0)
            return;
        *place = next;
        /* Another file of that name: the rest of the old one was sent. */
        if (stat(request->path, &now) == 0 && now.st_ino != open_one.st_ino &&
            (other = open(request->path, O_RDONLY | O_CLOEXEC)) >= 0) {
            close(*file);
            *file = other;
            *place = 0;
        }
    }
}

static int32_t execute(const legatus_host *host, const legatus_call *call)
{
    struct request request;
    struct stat stat;
    char told[64];
    if (!understand(call, &request))
        return fail(host, "no file, or a number that is none", "", "");
    int file = open(request.path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return fail(host, "cannot read", request.path, strerror(errno));
    if (fstat(file, &stat) != 0 || S_ISDIR(stat.st_mode)) {
        close(file);
        return fail(host, "cannot read", request.path, "it is a folder");
    }
    char *buffer = malloc(CHUNK);
    if (!buffer)
        return fail(host, "no memory for", request.path, "");
    off_t place = request.from >= 0 ? (off_t)request.from
                                    : last_lines(file, stat.st_size, request.lines);
    off_t next = send_rest(host, file, place, buffer);
    if (next >= 0) {
        place = next;
        if (request.follow)
            follow(host, &request, &file, &place, buffer);
    }
    snprintf(told, sizeof told, "ended at byte %lld", (long long)place);
    host->log(host->context, LEGATUS_LOG_INFO, text(told));
    free(buffer);
    close(file);
    return 0;
}

static const legatus_argument arguments[] = {
    {.name = "file", .value_name = "FILE", .help = "The file there",
     .kind = LEGATUS_POSITIONAL, .marks = LEGATUS_REQUIRED},
    {.name = "lines", .value_name = "N", .help = "How many lines [default: 10]",
     .kind = LEGATUS_OPTION, .value = LEGATUS_NUMBER, .short_name = 'n'},
    {.name = "follow", .help = "Go on with what is added, until interrupted",
     .kind = LEGATUS_FLAG, .short_name = 'f'},
    {.name = "from", .value_name = "BYTE", .help = "Continue at this place of the file",
     .kind = LEGATUS_OPTION, .value = LEGATUS_NUMBER},
};

static const legatus_example examples[] = {
    {"legatus tail web1 /etc/os-release --lines 1", "Prints the last line of a file"},
};

static const legatus_module tail = {
    .size = sizeof(legatus_module),
    .effects = LEGATUS_READ,
    .name = "tail",
    .version = "1.0.0",
    .summary = "Print the end of a file, and what is added to it",
    .arguments = arguments,
    .argument_count = sizeof arguments / sizeof *arguments,
    .examples = examples,
    .example_count = sizeof examples / sizeof *examples,
    .execute = execute,
};

static const legatus_module *const modules[] = {&tail};
static const legatus_library library = {LEGATUS_ABI, 1, modules};

const legatus_library *legatus_modules(uint32_t abi)
{
    return abi == LEGATUS_ABI ? &library : NULL;
}
