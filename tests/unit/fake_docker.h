/* A Docker daemon for tests: the part of the Engine API that berth-docker uses, on a unix socket,
 * in threads of the test. Its containers run no code: when one is started, its attached streams
 * answer as an init's carrier does, and every channel says "hi" in the place of init's hello. */
#ifndef BERTH_TESTS_UNIT_FAKE_DOCKER_H
#define BERTH_TESTS_UNIT_FAKE_DOCKER_H

#include <stdbool.h>
#include <stddef.h>

struct fake_docker;

/* Listens at path; what was there is replaced. NULL: it can't. */
struct fake_docker *fake_docker_start(const char *path);
/* As if the daemon was killed: nobody answers any more, streams break, containers stay. */
void fake_docker_pause(struct fake_docker *fake);
/* It is back; live_restore: with what ran before, else everything has ended. */
void fake_docker_resume(struct fake_docker *fake, bool live_restore);
void fake_docker_stop(struct fake_docker *fake);

/* Requests whose line has this text ("POST /v1.41/containers/create") are answered with that
 * status and message, count times; NULL: none. */
void fake_docker_refuse(struct fake_docker *fake, const char *line, unsigned count, int status,
                        const char *message);
/* The same, but their answers wait so long. */
void fake_docker_delay(struct fake_docker *fake, const char *line, unsigned delay_ms);

/* A container that was there before; labels is a JSON object. state: "created", "running", ... */
void fake_docker_add(struct fake_docker *fake, const char *name, const char *state,
                     const char *labels);
/* Ends a running one as if by itself, with an "oom" event before where it is wanted. */
void fake_docker_kill(struct fake_docker *fake, const char *name, int exit_code, bool oom);

/* An "oom" event of one that goes on all the same. */
void fake_docker_oom(struct fake_docker *fake, const char *name);
/* Somebody else starts it. */
void fake_docker_start_one(struct fake_docker *fake, const char *name);

/* From now on the list says of what runs that it was only created, as a busy daemon's does. */
void fake_docker_lag(struct fake_docker *fake);

/* From now on it speaks versions 1.least to 1.most of the API, and refuses others. */
void fake_docker_speak(struct fake_docker *fake, unsigned least, unsigned most);

/* From now on it is Podman: no call to change limits, and none may attach to a container that has
 * not its program yet. */
void fake_docker_be_podman(struct fake_docker *fake);

/* Ends the streams of events; everything else goes on. */
void fake_docker_cut_events(struct fake_docker *fake);

/* Its images have this id, so that berth can prepare one; without it they have none. */
void fake_docker_set_image(struct fake_docker *fake, const char *id);
/* The id of what was prepared last ("POST /commit"); "" nothing. */
const char *fake_docker_prepared(struct fake_docker *fake);

size_t fake_docker_count(struct fake_docker *fake);
/* The body that it was made with; "" no such. Valid until the next call. */
const char *fake_docker_made_of(struct fake_docker *fake, const char *name);
/* How many requests had this text in their line. */
size_t fake_docker_asked(struct fake_docker *fake, const char *line);

#endif
