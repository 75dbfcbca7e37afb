/* Text to numbers: sizes ("512MB"), integers, core counts. */
#ifndef BERTH_BASE_PARSE_H
#define BERTH_BASE_PARSE_H

#include <stdint.h>

#include "base/err.h"

/* A byte count: `512`, `512B`, `64KB`, `1.5GB` (powers of 1000), `1GiB` (powers of 1024); `k`, `M`,
 * `G` alone count by 1024 as in docker's options. A fraction needs a unit. Case does not matter,
 * spaces around and before the unit are allowed. ERR_BAD_INPUT (public) names what is wrong,
 * without the field's name. Source of the unit names: IEC 80000-13 and the SI brochure. */
int parse_size(const char *text, uint64_t *out_bytes, struct err *err);

/* A decimal integer within [low, high], the whole text. */
int parse_u64(const char *text, uint64_t low, uint64_t high, uint64_t *out, struct err *err);

/* A non-negative decimal fraction, the whole text ("0.5"); finite, no exponent, no hex. */
int parse_fraction(const char *text, double *out, struct err *err);

#endif
