/* A library as it could be written when the contract was first published. Never edited. */
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

static const legatus_module first = {
    .size = sizeof(legatus_module),
    .name = "first-library",
    .version = "1.0.0",
    .summary = "Send back every message",
    .execute = execute,
};

static const legatus_module *const modules[] = {&first};
static const legatus_library library = {LEGATUS_ABI, 1, modules};

const legatus_library *legatus_modules(uint32_t abi)
{
    return abi == LEGATUS_ABI ? &library : NULL;
}
