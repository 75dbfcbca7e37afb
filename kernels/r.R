# The R kernel of berth: runs cells in the global environment of one R, from 4.1 on, and says what
# they show. kernels/README.md has the protocol (lines) and what a cell can count on.
#
# Owns the process of a session. What holds throughout:
#
# - Interrupts are suspended but for the user's code, and what shows its values.
# - Its functions look names up in base, not among the user's, who can change base all the same.
# - Descriptors 3 and 4 are opened again by name, the only way that R has: a user who closes all
#   connections closes those, and they are opened anew.
local({
  PLAIN_MAX <- 1048576L # characters of what a value shows as text
  TEXT_MAX <- 16384L # of an error's text
  BODY_MAX <- 31 * 2^20 # bytes of a result's data; init takes messages of 32 MiB
  CALLS_MAX <- 40L # of a traceback
  ROWS_MAX <- 100L # of a table as HTML
  COLUMNS_MAX <- 50L
  EXIT_ERROR <- 1L
  EXIT_INTERRUPTED <- 130L
  ESCAPED <- c("\\n" = "\n", "\\r" = "\r", "\\t" = "\t")
  BASE64 <- c(LETTERS, letters, 0:9, "+", "/")

  state <- new.env(parent = emptyenv())
  state$run <- NULL
  state$devices <- integer()
  state$pid <- Sys.getpid()
  state$channels <- list()

  # --- the channel ----------------------------------------------------------------------------

  # A fifo is read byte by byte, so that nothing is taken ahead of its time.
  open_channel <- function(name) {
    one <- switch(name,
      take = fifo("/dev/fd/3", "rb", blocking = TRUE),
      peek = fifo("/dev/fd/3", "rb", blocking = FALSE),
      give = file("/dev/fd/4", "wb", raw = TRUE))
    state$channels[[name]] <- one
    one
  }

  # What f does with a channel, and once more with a new one when the user has closed it.
  with_channel <- function(name, f) {
    one <- state$channels[[name]]
    if (is.null(one)) one <- open_channel(name)
    tryCatch(f(one), error = function(e) f(open_channel(name)))
  }

  say <- function(line) {
    bytes <- charToRaw(paste0(line, "\n"))
    with_channel("give", function(channel) {
      writeBin(bytes, channel)
      flush(channel)
    })
  }

  read_line <- function(name) suppressWarnings(with_channel(name, function(channel) readLines(channel, 1L)))

  rest_of <- function(text, first) substr(text, first, .Machine$integer.max) # substring() ends at 1,000,000

  # By bytes: in UTF-8 the place of each escape would be counted from the beginning of the text. The blank keeps an
  # empty last part.
  unescape <- function(text) {
    parts <- strsplit(paste0(text, " "), "\\\\", fixed = TRUE, useBytes = TRUE)[[1L]]
    for (escape in names(ESCAPED)) parts <- gsub(escape, ESCAPED[[escape]], parts, fixed = TRUE, useBytes = TRUE)
    Encoding(parts) <- "bytes"
    text <- paste(parts, collapse = "\\")
    text <- substr(text, 1L, nchar(text, "bytes") - 1L)
    Encoding(text) <- "UTF-8"
    text
  }

  # --- messages -------------------------------------------------------------------------------

  utf8 <- function(text) {
    text <- paste(enc2utf8(as.character(text)), collapse = "\n")
    if (validUTF8(text)) text else iconv(text, "UTF-8", "UTF-8", sub = "byte")
  }

  cut <- function(text, limit) {
    size <- nchar(text)
    if (size <= limit) return(text)
    half <- limit %/% 2L
    paste0(substr(text, 1L, half), "\n[... ", size - 2L * half, " characters left out ...]\n",
      substr(text, size - half + 1L, size))
  }

  quote_json <- function(text) {
    text <- gsub("\\", "\\\\", utf8(text), fixed = TRUE)
    text <- gsub("\"", "\\\"", text, fixed = TRUE)
    for (code in c(1:31, 127L)) {
      sign <- intToUtf8(code)
      if (grepl(sign, text, fixed = TRUE)) text <- gsub(sign, sprintf("\\u%04x", code), text, fixed = TRUE)
    }
    paste0("\"", text, "\"")
  }

  base64 <- function(bytes) {
    padding <- -length(bytes) %% 3L
    groups <- matrix(as.integer(c(bytes, raw(padding))), nrow = 3L)
    sixes <- rbind(groups[1L, ] %/% 4L, groups[1L, ] %% 4L * 16L + groups[2L, ] %/% 16L,
      groups[2L, ] %% 16L * 4L + groups[3L, ] %/% 64L, groups[3L, ] %% 64L)
    signs <- BASE64[sixes + 1L]
    if (padding > 0L) signs[length(signs) - seq_len(padding) + 1L] <- "="
    paste(signs, collapse = "")
  }

  # data: a named vector of texts by mime.
  emit_result <- function(data) {
    fields <- paste0(vapply(names(data), quote_json, ""), ":", vapply(data, quote_json, ""))
    if (sum(nchar(fields, "bytes")) > BODY_MAX) return(cat("A result was left out: too large.\n", file = stderr()))
    say(paste0("M {\"type\":\"result\",\"data\":{", paste(fields, collapse = ","), "}}"))
  }

  # --- values ---------------------------------------------------------------------------------

  print_value <- function(value) if (isS4(value)) methods::show(value) else print(value)

  escape_html <- function(text) {
    text <- gsub("&", "&amp;", text, fixed = TRUE)
    gsub(">", "&gt;", gsub("<", "&lt;", text, fixed = TRUE), fixed = TRUE)
  }

  row_html <- function(tag, cells) paste0("<tr>", paste0("<", tag, ">", escape_html(cells), "</", tag, ">", collapse = ""), "</tr>")

  table_html <- function(frame) {
    shown <- as.data.frame(frame)[seq_len(min(nrow(frame), ROWS_MAX)), seq_len(min(ncol(frame), COLUMNS_MAX)), drop = FALSE]
    cells <- as.matrix(format(shown))
    rows <- vapply(seq_len(nrow(cells)), function(i) row_html("td", c(rownames(shown)[i], cells[i, ])), "")
    left_out <- if (any(dim(frame) > dim(shown))) paste0("<p>", nrow(frame), " rows, ", ncol(frame), " columns</p>")
    paste(c("<table>", row_html("th", c("", names(shown))), rows, "</table>", left_out), collapse = "\n")
  }

  # The value of the last expression, as R prints it. What it draws is shown with the plots.
  show_value <- function(value) {
    text <- paste(utils::capture.output(print_value(value)), collapse = "\n")
    if (!nzchar(text)) return(invisible())
    html <- if (is.data.frame(value)) tryCatch(table_html(value), error = function(e) NULL)
    emit_result(c("text/plain" = cut(utf8(text), PLAIN_MAX), "text/html" = html))
  }

  # --- plots ----------------------------------------------------------------------------------

  plot_folder <- function() file.path(tempdir(check = TRUE), "berth-plots")

  open_device <- function(width = 7, height = 7, ...) {
    dir.create(plot_folder(), showWarnings = FALSE)
    count <- length(state$devices) + 1L
    grDevices::png(file.path(plot_folder(), sprintf("%03d-%%04d.png", count)), width = width, height = height,
      units = "in", res = 96, type = "cairo")
    state$devices <- c(state$devices, grDevices::dev.cur())
  }

  # Each page of the devices that no one has named, as a result. Then they are closed.
  show_plots <- function() {
    for (device in intersect(state$devices, grDevices::dev.list())) grDevices::dev.off(device)
    state$devices <- integer()
    for (path in sort(list.files(plot_folder(), full.names = TRUE))) {
      bytes <- readBin(path, "raw", file.size(path))
      unlink(path)
      if (length(bytes) > 0L) emit_result(c("text/plain" = "<plot>", "image/png" = base64(bytes)))
    }
  }

  # --- errors ---------------------------------------------------------------------------------

  # What our own calls raise, or the top level of a cell, has no call to name.
  call_of <- function(condition) {
    call <- conditionCall(condition)
    ours <- list(quote(eval(expression, globalenv())),
      quote(parse(text = run$code, srcfile = source, keep.source = TRUE, encoding = "UTF-8")))
    if (any(vapply(ours, identical, NA, call))) NULL else call
  }

  # As R does, but without our own calls.
  on_warning <- function(condition) {
    text <- conditionMessage(condition)
    stray <- startsWith(text, "closing unused connection")
    if (!isTRUE(getOption("warn") == 1) || !(stray || (is.null(call_of(condition)) && !is.null(conditionCall(condition))))) return()
    cat("Warning: ", text, "\n", sep = "", file = stderr())
    invokeRestart("muffleWarning")
  }

  describe_call <- function(call) {
    text <- paste(trimws(deparse(call, width.cutoff = 80L, nlines = 2L)), collapse = " ")
    place <- attr(call, "srcref")
    if (is.null(place)) return(text)
    paste0(text, " at ", basename(attr(place, "srcfile")$filename), "#", place[[1L]])
  }

  # The calls of the user's code, outermost first.
  user_calls <- function(run) {
    calls <- run$calls[-seq_len(min(run$depth, length(run$calls)))]
    if (length(calls) == 0L) return(list())
    if (is.null(attr(calls[[1L]], "srcref"))) attr(calls[[1L]], "srcref") <- run$place
    names <- vapply(calls, function(call) if (is.name(call[[1L]])) as.character(call[[1L]]) else "", "")
    raised <- match(c(".signalSimpleWarning", ".handleSimpleError"), names, length(calls) + 1L)
    calls <- calls[seq_len(min(raised) - 1L)]
    while (length(calls) > 0L && names[[length(calls)]] %in% c("stop", "warning", "h")) calls[[length(calls)]] <- NULL
    calls
  }

  traceback_text <- function(run, condition) {
    call <- call_of(condition)
    head <- paste0(if (is.null(call)) "Error: " else paste0("Error in ", deparse(call, nlines = 1L)[[1L]], " : "),
      conditionMessage(condition))
    calls <- user_calls(run)
    if (length(calls) == 0L) return(head)
    lines <- paste0("  ", seq_along(calls), ": ")
    left_out <- length(calls) - CALLS_MAX
    if (left_out > 0L) calls <- calls[-(CALLS_MAX %/% 2L + seq_len(left_out))]
    if (left_out > 0L) lines <- lines[-(CALLS_MAX %/% 2L + seq_len(left_out))]
    lines <- paste0(lines, vapply(calls, describe_call, ""))
    if (left_out > 0L) lines <- append(lines, paste0("  [... ", left_out, " calls left out ...]"), CALLS_MAX %/% 2L)
    paste(c(head, lines), collapse = "\n")
  }

  tell <- function(name, value, text) {
    text <- utf8(text)
    try(cat(text, "\n", sep = "", file = stderr()), silent = TRUE)
    say(paste0("M {\"type\":\"error\",\"name\":", quote_json(name), ",\"value\":", quote_json(cut(utf8(value), TEXT_MAX)),
      ",\"traceback\":", quote_json(text), "}"))
  }

  # --- runs -----------------------------------------------------------------------------------

  evaluate <- function(expression) {
    state$run$depth <- sys.nframe() + state$frames
    withVisible(eval(expression, globalenv()))
  }

  # What R itself ignores SIGINT for (system(), say) ends without an interrupt; the I says it too.
  told_to_end <- function() any(startsWith(read_line("peek"), "I "))

  # As Rscript does, each visible value is printed; the last one is the cell's.
  run_cell <- function(run) {
    source <- srcfilecopy(run$file, strsplit(run$code, "\n", fixed = TRUE)[[1L]])
    expressions <- parse(text = run$code, srcfile = source, keep.source = TRUE, encoding = "UTF-8")
    places <- attr(expressions, "srcref")
    for (i in seq_along(expressions)) {
      run$place <- places[[i]]
      outcome <- evaluate(expressions[[i]])
      run$depth <- sys.nframe() + 1L
      if (told_to_end()) stop(structure(class = c("interrupt", "condition"), list(message = "", call = NULL)))
      if (!outcome$visible) next
      if (i == length(expressions)) show_value(outcome$value) else print_value(outcome$value)
    }
    show_plots()
    0L
  }

  # The exit code. quit() comes here by its restart, past all handlers.
  guard <- function(run, code) {
    withRestarts(
      tryCatch(
        withCallingHandlers(allowInterrupts(code), error = function(e) run$calls <- sys.calls()[seq_len(sys.nframe() - 1L)]),
        interrupt = function(e) {
          tell("interrupt", "the execution was interrupted", "Interrupted")
          EXIT_INTERRUPTED
        },
        error = function(e) {
          text <- tryCatch(traceback_text(run, e), error = function(e) "Error: it can not be shown")
          tell(class(e)[[1L]], tryCatch(conditionMessage(e), error = function(e) ""), text)
          EXIT_ERROR
        }),
      berth_quit = function(status) status)
  }

  leave <- function(save = "default", status = 0, runLast = TRUE) {
    if (is.null(state$run) || Sys.getpid() != state$pid) return(state$quit(save, status, runLast))
    invokeRestart("berth_quit", bitwAnd(as.integer(status), 255L))
  }

  restore <- function() {
    if (isTRUE(getOption("warn") == 0)) options(warn = 1) # later ones would be printed at a prompt that never comes
    if (is.null(getOption("device")) || state$cairo) options(device = open_device)
    for (name in c("quit", "q")) {
      if (identical(get(name, baseenv()), leave)) next
      unlockBinding(name, baseenv())
      assign(name, leave, baseenv())
      lockBinding(name, baseenv())
    }
  }

  # A SIGINT that came while none could act is a late one of the run before, unless this run's I is
  # there already.
  interrupted_before <- function() {
    late <- tryCatch(allowInterrupts({ Sys.sleep(1e-5); FALSE }), interrupt = function(e) TRUE)
    late && told_to_end()
  }

  run_line <- function(line) {
    Encoding(line) <- "bytes"
    blanks <- gregexpr(" ", line, fixed = TRUE)[[1L]][1:4]
    run <- new.env(parent = emptyenv())
    run$file <- substr(line, blanks[[3L]] + 1L, blanks[[4L]] - 1L)
    run$code <- unescape(rest_of(line, blanks[[4L]] + 1L))
    Encoding(run$file) <- "UTF-8"
    run$calls <- list()
    run$depth <- 0L
    state$run <- run
    restore()
    code <- if (interrupted_before()) EXIT_INTERRUPTED else guard(run, run_cell(run))
    if (code != 0L) guard(run, show_plots())
    flush(stdout())
    state$run <- NULL
    say(paste("D", code))
  }

  # Where packages lie is looked at when R starts; a later value is put in front.
  set_variable <- function(entry) {
    entry <- unescape(entry)
    at <- regexpr("=", entry, fixed = TRUE)
    name <- substr(entry, 1L, at - 1L)
    value <- rest_of(entry, at + 1L)
    do.call(Sys.setenv, structure(list(value), names = name))
    if (name %in% c("R_LIBS", "R_LIBS_USER")) .libPaths(c(strsplit(value, ":", fixed = TRUE)[[1L]], .libPaths()))
  }

  serve <- function() {
    say("R")
    repeat {
      line <- read_line("take")
      if (length(line) == 0L) state$quit("no", 0, FALSE)
      kind <- substr(line, 1L, 2L)
      if (kind == "X ") run_line(line)
      if (kind == "V ") try(set_variable(rest_of(line, 3L)), silent = TRUE)
    }
  }

  if (!l10n_info()[["UTF-8"]]) suppressWarnings(Sys.setlocale("LC_CTYPE", "C.UTF-8"))
  state$quit <- base::quit
  state$cairo <- isTRUE(capabilities("cairo")[[1L]])
  state$run <- new.env(parent = emptyenv())
  state$frames <- 0L
  state$frames <- evaluate(quote(sys.nframe()))$value - state$run$depth # those of withVisible() and eval()
  state$run <- NULL
  options(keep.source = TRUE)
  closeAllConnections() # what this text was read by
  suspendInterrupts(withCallingHandlers(serve(), warning = on_warning))
}, envir = new.env(parent = baseenv()))
