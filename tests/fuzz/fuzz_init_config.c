/* The configuration that an init reads from its engine. */
#include "fuzz.h"

#include <string.h>

#include "wire/init_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct init_config config;
    init_config_clear(&config);
    if (init_config_decode(data, size, &config, NULL) != 0)
        return 0;
    fuzz_require(strnlen(config.id, sizeof(config.id)) < sizeof(config.id));
    fuzz_require(config.procs_count <= INIT_PROCS_MAX);
    return 0;
}
