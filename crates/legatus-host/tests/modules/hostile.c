/* A library that does whatever its first argument asks for; see hostile.rs. */
#include "legatus_module.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <fcntl.h>
#include <errno.h>
#include <arpa/inet.h>
#include <sys/prctl.h>
#include <sys/socket.h>

static legatus_bytes text(const char *text)
{
    legatus_bytes bytes = {(const uint8_t *)text, strlen(text)};
    return bytes;
}

static volatile int depth;

static int recurse(int n)
{
    volatile char big[4096];
    if (n < 0)
        return 0;
    big[0] = (char)n;
    depth += recurse(n + 1) + big[0];
    return depth;
}

static int is(const legatus_call *call, const char *word)
{
    return call->argument_count > 0 && call->arguments[0].length == strlen(word) &&
           memcmp(call->arguments[0].data, word, strlen(word)) == 0;
}

static int32_t tell(const legatus_host *host, const char *line)
{
    return host->send(host->context, text(line)) == LEGATUS_OK ? 0 : 1;
}

/* Starts a child that does nothing, and tells its id. */
static int32_t tell_of_child(const legatus_host *host)
{
    char line[64];
    pid_t child = fork();
    if (child == 0)
        for (;;)
            pause();
    snprintf(line, sizeof line, "%d", (int)child);
    return tell(host, line);
}

static int32_t execute(const legatus_host *host, const legatus_call *call)
{
    legatus_bytes message;

    if (is(call, "segfault"))
        *(volatile int *)8 = 1;
    if (is(call, "abort"))
        abort();
    if (is(call, "exit"))
        _exit(3);
    if (is(call, "loop"))
        for (;;)
            depth++;
    if (is(call, "recurse"))
        return recurse(0);
    if (is(call, "sleep"))
        return (int32_t)host->wait(host->context, -1) == (int32_t)LEGATUS_IS_CANCELLED ? 9 : 1;
    if (is(call, "stubborn"))
        for (;;)
            pause();
    if (is(call, "allocate")) {
        void *memory = malloc((size_t)4 << 30);
        return tell(host, memory ? "got 4 GiB\n" : "no memory\n");
    }
    if (is(call, "flood-log"))
        for (int i = 0; i < 100000; i++)
            host->log(host->context, LEGATUS_LOG_INFO, text("again and again"));
    if (is(call, "flood-peer"))
        for (;;)
            if (host->send(host->context, text("flood\n")) != LEGATUS_OK)
                return 5;
    if (is(call, "passwd")) {
        int file = open("/etc/passwd", O_RDONLY);
        return tell(host, file >= 0 ? "read it\n" : strerror(errno));
    }
    if (is(call, "user")) {
        char line[64];
        snprintf(line, sizeof line, "%u %u", (unsigned)getuid(), (unsigned)geteuid());
        return tell(host, line);
    }
    if (is(call, "connect")) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(9)};
        int socket_ = socket(AF_INET, SOCK_STREAM, 0);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (connect(socket_, (struct sockaddr *)&address, sizeof address) == 0)
            return tell(host, "connected\n");
        return tell(host, strerror(errno));
    }
    if (is(call, "run"))
        return tell(host, execl("/bin/true", "true", (char *)0) ? strerror(errno) : "");
    if (is(call, "environment"))
        return tell(host, getenv("SECRET") ? getenv("SECRET") : "unset");
    if (is(call, "privileges"))
        return tell(host, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? "no new ones" : "new ones");
    if (is(call, "descriptors")) {
        char line[64];
        int count = 0;
        for (int i = 0; i < 1024; i++)
            count += fcntl(i, F_GETFD) >= 0;
        snprintf(line, sizeof line, "%d", count);
        return tell(host, line);
    }
    if (is(call, "garbage")) {
        /* Not through the functions: what comes is no frame. */
        char bytes[64];
        memset(bytes, 0xff, sizeof bytes);
        for (int i = 3; i < 16; i++)
            if (write(i, bytes, sizeof bytes) > 0)
                break;
        pause();
    }
    if (is(call, "orphan")) {
        return tell_of_child(host);
    }
    if (is(call, "escape")) {
        /* Its child leaves the process group before the call ends. */
        char line[64];
        int moved[2];
        pid_t child;
        if (pipe(moved) < 0 || (child = fork()) < 0)
            return 1;
        if (child == 0) {
            setsid();
            close(moved[1]);
            close(moved[0]);
            for (;;)
                pause();
        }
        close(moved[1]);
        if (read(moved[0], line, 1) != 0)
            return 1;
        snprintf(line, sizeof line, "%d", (int)child);
        tell(host, line);
    }
    if (is(call, "leave")) {
        /* Says goodbye in no way, and leaves a child behind. */
        tell_of_child(host);
        _exit(0);
    }
    if (is(call, "fault")) {
        host->fail(host->context, text("it is broken"), text("mend it"));
        return LEGATUS_FAULT;
    }
    if (is(call, "nonsense"))
        return 4711;
    for (;;) {
        int32_t got = host->receive(host->context, &message);
        if (got == LEGATUS_END)
            return 0;
        if (got != LEGATUS_OK || host->send(host->context, message) != LEGATUS_OK)
            return 7;
    }
}

static const legatus_argument arguments[] = {
    {.name = "what", .value_name = "WHAT", .help = "What to do", .kind = LEGATUS_POSITIONAL},
};

static const legatus_module hostile = {
    .size = sizeof(legatus_module),
    .effects = LEGATUS_READ | LEGATUS_EXEC,
    .name = "hostile",
    .version = "1.0.0",
    .summary = "Do what is asked for, however bad",
    .arguments = arguments,
    .argument_count = 1,
    .execute = execute,
};

static const legatus_module *const modules[] = {&hostile};
static const legatus_library library = {LEGATUS_ABI, 1, modules};

const legatus_library *legatus_modules(uint32_t abi)
{
    return abi == LEGATUS_ABI ? &library : NULL;
}
