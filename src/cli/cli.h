/* The commands of `berth`. Each takes its own part of argv (argv[0] is its name) and returns the
 * exit status of the program. */
#ifndef BERTH_CLI_CLI_H
#define BERTH_CLI_CLI_H

#define CLI_EXIT_USAGE 2    /* the command line is wrong */
#define CLI_EXIT_FAILED 125 /* berth itself failed: no code was run, or its end is not known */

int cli_serve(int argc, char **argv);
int cli_run(int argc, char **argv);
int cli_ps(int argc, char **argv);
int cli_logs(int argc, char **argv);
int cli_session(int argc, char **argv);
int cli_layers(int argc, char **argv);
int cli_languages(int argc, char **argv);
int cli_engines(int argc, char **argv);
int cli_drain(int argc, char **argv);
int cli_image(int argc, char **argv);

#endif
