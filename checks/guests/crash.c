/* A library whose server half crashes. */
#include "legatus_module.h"

static int32_t execute(const legatus_host *host, const legatus_call *call)
{
    (void)host;
    (void)call;
    *(volatile int *)8 = 1;
    return 0;
}

static const legatus_module module = {
    .size = sizeof module,
    .name = "crash",
    .version = "1.0.0",
    .summary = "Crash",
    .execute = execute,
};

static const legatus_module *const modules[] = {&module};
static const legatus_library library = {LEGATUS_ABI, 1, modules};

const legatus_library *legatus_modules(uint32_t abi)
{
    return abi == LEGATUS_ABI ? &library : 0;
}
