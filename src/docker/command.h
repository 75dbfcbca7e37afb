/* `berth-docker image`, which is what `berth image --engine docker` becomes: the operator's images
 * on the Docker daemon. No server is asked and none has to run. */
#ifndef BERTH_DOCKER_COMMAND_H
#define BERTH_DOCKER_COMMAND_H

/* argv[0] is "image". Returns the exit status. */
int command_run(int argc, char **argv);

#endif
