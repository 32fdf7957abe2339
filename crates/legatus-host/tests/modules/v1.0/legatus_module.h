/* The contract between Legatus and modules that are shared libraries, or executables.
 *
 * A library exports one function, legatus_modules. It is loaded in a process of its own, for one
 * call; what it does there hurts nobody else. All functions of the host are called on the thread
 * that entered execute or send. Texts that are `const char *` are UTF-8 and end with a zero; those
 * of legatus_bytes do not. Nothing is freed by the other side.
 *
 * legatus_host, legatus_call and legatus_module begin with their size and may grow at their end;
 * what lies beyond the size that the other side tells is not there. All else never changes.
 */
#ifndef LEGATUS_MODULE_H
#define LEGATUS_MODULE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Version of this contract. Another one is another contract. */
#define LEGATUS_ABI 1u

/* Results of functions. */
#define LEGATUS_OK 0
#define LEGATUS_END 1           /* no more messages, the end of input */
#define LEGATUS_GONE (-1)       /* the other half no longer receives, or there is no call yet */
#define LEGATUS_CANCELLED (-2)  /* the call was cancelled */
#define LEGATUS_TOO_LONG (-3)   /* a message is longer than 1 MiB + 64 KiB */
#define LEGATUS_FAILED (-4)     /* it failed; fail() tells why, or the log */

/* What execute and send return, beside exit statuses 0 to 255. */
#define LEGATUS_FAULT (-1)      /* it failed, as fail() has told */
#define LEGATUS_AS_OUTCOME (-2) /* send: as outcome() has told of the call */

/* Effects, together by `|`. */
#define LEGATUS_READ 1u
#define LEGATUS_WRITE 2u
#define LEGATUS_EXEC 4u

/* Kinds of arguments. */
#define LEGATUS_POSITIONAL 0u
#define LEGATUS_OPTION 1u
#define LEGATUS_FLAG 2u
#define LEGATUS_TRAILING 3u

/* Kinds of values. */
#define LEGATUS_TEXT 0u
#define LEGATUS_NUMBER 1u
#define LEGATUS_PATH 2u
#define LEGATUS_LOCATION 3u
#define LEGATUS_MODE 4u
#define LEGATUS_DURATION 5u

/* Marks of arguments, together by `|`. */
#define LEGATUS_REQUIRED 1u
#define LEGATUS_REPEATED 2u

/* What wait() has seen, together by `|`. */
#define LEGATUS_MESSAGE_READY 1u
#define LEGATUS_IS_CANCELLED 2u

/* Levels of the log. */
#define LEGATUS_LOG_TRACE 0u
#define LEGATUS_LOG_DEBUG 1u
#define LEGATUS_LOG_INFO 2u
#define LEGATUS_LOG_WARN 3u
#define LEGATUS_LOG_ERROR 4u

/* How a call ended. */
#define LEGATUS_OUTCOME_EXIT 0u
#define LEGATUS_OUTCOME_SIGNAL 1u
#define LEGATUS_OUTCOME_TIMEOUT 2u
#define LEGATUS_OUTCOME_CANCELLED 3u
#define LEGATUS_OUTCOME_DENIED 4u
#define LEGATUS_OUTCOME_UNAVAILABLE 5u
#define LEGATUS_OUTCOME_LOST 6u
#define LEGATUS_OUTCOME_FAILED 7u

typedef struct legatus_bytes {
    const uint8_t *data;
    size_t length;
} legatus_bytes;

/* An argument of a user's command line; a flag that was given has no values. */
typedef struct legatus_given {
    const char *name;
    const legatus_bytes *values;
    size_t value_count;
} legatus_given;

typedef struct legatus_outcome {
    uint32_t kind;
    uint32_t status; /* the exit status or the signal */
} legatus_outcome;

/* One invocation, as the server half sees it. */
typedef struct legatus_call {
    uint32_t size;
    uint32_t reserved;
    const char *module;
    const char *id;
    const char *peer; /* the identity of the caller, verified */
    const legatus_bytes *arguments;
    size_t argument_count;
    uint64_t milliseconds; /* what is left until the call will be ended; 0: no deadline */
} legatus_call;

typedef struct legatus_host {
    uint32_t size;
    uint32_t abi;
    void *context; /* the first argument of all functions */

    /* Waits for the next message, which stays until the next call of this function. */
    int32_t (*receive)(void *context, legatus_bytes *message);
    /* Waits for room. */
    int32_t (*send)(void *context, legatus_bytes message);
    /* Tells the other half that no more messages come. */
    void (*finish)(void *context);
    /* Waits until a message can be received, the call is cancelled, or the time is up; a negative
     * time is for ever. The end of the messages counts as one until receive has told of it. */
    uint32_t (*wait)(void *context, int64_t milliseconds);
    void (*log)(void *context, uint32_t level, legatus_bytes text);
    /* Says why the half failed; the hint may be empty. */
    void (*fail)(void *context, legatus_bytes message, legatus_bytes hint);

    /* For client halves only. */
    int32_t (*open)(void *context, const legatus_bytes *arguments, size_t argument_count);
    /* Waits for the end of the call. All messages must have been received before. */
    int32_t (*outcome)(void *context, legatus_outcome *outcome);
    /* The bytes stay until the next call of read_input or read_file. */
    int32_t (*read_input)(void *context, legatus_bytes *bytes);
    int32_t (*write_output)(void *context, legatus_bytes bytes);
    int32_t (*write_error)(void *context, legatus_bytes bytes);
    /* Opens a file of the user, whose name must be a value on this command line. */
    int32_t (*open_file)(void *context, legatus_bytes name, uint32_t *file);
    int32_t (*read_file)(void *context, uint32_t file, legatus_bytes *bytes);
    void (*close_file)(void *context, uint32_t file);
} legatus_host;

typedef struct legatus_argument {
    const char *name; /* for options and flags what follows `--` */
    const char *value_name;
    const char *help;
    uint32_t kind;
    uint32_t value;
    uint32_t marks;
    uint32_t short_name; /* a letter, or 0 */
} legatus_argument;

typedef struct legatus_example {
    const char *command; /* a command line that works, beginning with `legatus` */
    const char *explanation;
} legatus_example;

typedef struct legatus_module {
    uint32_t size;
    uint32_t effects;
    const char *name;
    const char *version;
    const char *summary;
    const char *details; /* may be NULL */
    const legatus_argument *arguments;
    size_t argument_count;
    const legatus_example *examples;
    size_t example_count;
    /* The halves; one of them may be NULL. Without a client half the generic one is used: arguments
     * to the server half, standard input in, messages out, exit status. */
    int32_t (*execute)(const legatus_host *host, const legatus_call *call);
    int32_t (*send)(const legatus_host *host, const char *module, const legatus_given *given,
                    size_t given_count);
} legatus_module;

typedef struct legatus_library {
    uint32_t abi;
    uint32_t module_count;
    const legatus_module *const *modules;
} legatus_library;

/* The one symbol of a library; NULL if it does not speak this version. */
const legatus_library *legatus_modules(uint32_t abi);

/* Executables speak the same contract in frames, on standard input and output, which are one socket:
 * a length (4 bytes, little endian), a kind (1 byte), three bytes of zero, the payload. The guide
 * (docs/modules.md) tells what each carries. */
#define LEGATUS_PROTOCOL 1u
#define LEGATUS_FRAME_START 1u
#define LEGATUS_FRAME_DESCRIBE 2u
#define LEGATUS_FRAME_EXECUTE 3u
#define LEGATUS_FRAME_SEND 4u
#define LEGATUS_FRAME_MESSAGE 5u
#define LEGATUS_FRAME_END 6u
#define LEGATUS_FRAME_CANCEL 7u
#define LEGATUS_FRAME_REPLY 8u
#define LEGATUS_FRAME_DESCRIPTION 33u
#define LEGATUS_FRAME_PULL 34u
#define LEGATUS_FRAME_LOG 35u
#define LEGATUS_FRAME_DONE 36u
#define LEGATUS_FRAME_OPEN 37u
#define LEGATUS_FRAME_OUTCOME 38u
#define LEGATUS_FRAME_READ_INPUT 39u
#define LEGATUS_FRAME_WRITE_OUTPUT 40u
#define LEGATUS_FRAME_WRITE_ERROR 41u
#define LEGATUS_FRAME_OPEN_FILE 42u
#define LEGATUS_FRAME_READ_FILE 43u
#define LEGATUS_FRAME_CLOSE_FILE 44u

#ifdef __cplusplus
}
#endif

#endif
