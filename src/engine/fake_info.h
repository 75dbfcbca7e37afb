/* What the host of the fake engine has. For fake.c only. */
#ifndef BERTH_ENGINE_FAKE_INFO_H
#define BERTH_ENGINE_FAKE_INFO_H

#include <stdbool.h>

#include "wire/engine_msg.h"

/* By BERTH_FAKE_LACKS, BERTH_FAKE_HAS and BERTH_FAKE_RUNTIMES (fake.h). */
void fake_info(struct engine_info *out);

/* Whether word is one of the words of list, which spaces separate. */
bool fake_has_word(const char *list, const char *word);

#endif
