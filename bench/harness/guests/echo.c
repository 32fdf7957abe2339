/* A library whose server half sends back what it gets: the smallest useful one. */
#include "legatus_module.h"

static int32_t execute(const legatus_host *host, const legatus_call *call)
{
    legatus_bytes message;

    (void)call;
    while (host->receive(host->context, &message) == LEGATUS_OK)
        if (host->send(host->context, message) != LEGATUS_OK)
            return 1;
    return 0;
}

static const legatus_module module = {
    .size = sizeof module,
    .name = "echo-native",
    .version = "1.0.0",
    .summary = "Send back standard input",
    .execute = execute,
};

static const legatus_module *const modules[] = {&module};
static const legatus_library library = {LEGATUS_ABI, 1, modules};

const legatus_library *legatus_modules(uint32_t abi)
{
    return abi == LEGATUS_ABI ? &library : 0;
}
