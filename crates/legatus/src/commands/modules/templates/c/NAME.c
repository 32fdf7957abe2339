/* NAME: a library for Legatus. */
#include "legatus_module.h"

#include <string.h>

/* Greets the first argument, then sends back what it gets. Returns the exit status. */
static int32_t execute(const legatus_host *host, const legatus_call *call)
{
    legatus_bytes hello = {(const uint8_t *)"hello, ", 7};
    legatus_bytes end = {(const uint8_t *)"\n", 1};
    legatus_bytes message;

    if (call->argument_count != 1) {
        legatus_bytes fault = {(const uint8_t *)"whom to greet?", 14};
        legatus_bytes hint = {(const uint8_t *)"name somebody", 13};
        host->fail(host->context, fault, hint);
        return LEGATUS_FAULT;
    }
    if (host->send(host->context, hello) != LEGATUS_OK ||
        host->send(host->context, call->arguments[0]) != LEGATUS_OK ||
        host->send(host->context, end) != LEGATUS_OK)
        return 1;
    while (host->receive(host->context, &message) == LEGATUS_OK)
        if (host->send(host->context, message) != LEGATUS_OK)
            return 1;
    return 0;
}

static const legatus_argument arguments[] = {
    {.name = "whom", .value_name = "WHOM", .help = "Whom to greet",
     .kind = LEGATUS_POSITIONAL, .marks = LEGATUS_REQUIRED},
};

static const legatus_example examples[] = {
    {"legatus NAME web1 world", "Greets the world"},
};

static const legatus_module module = {
    .size = sizeof(legatus_module),
    .effects = 0, /* LEGATUS_READ | LEGATUS_WRITE | LEGATUS_EXEC */
    .name = "NAME",
    .version = "0.1.0",
    .summary = "Greet somebody",
    .arguments = arguments,
    .argument_count = 1,
    .examples = examples,
    .example_count = 1,
    .execute = execute,
};

static const legatus_module *const modules[] = {&module};
static const legatus_library library = {LEGATUS_ABI, 1, modules};

const legatus_library *legatus_modules(uint32_t abi)
{
    return abi == LEGATUS_ABI ? &library : NULL;
}
