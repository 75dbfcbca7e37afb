// The JavaScript kernel of berth: runs cells in the global scope of one Node, from 18 on, and says
// what they show. kernels/README.md has the protocol (lines) and what a cell can count on.
//
// Owns the process of a session. V8's own REPL mode, which inspector has, evaluates a cell: it
// knows top-level await, the value of the last statement, and lets a later cell declare a name
// again. What holds throughout:
//
// - User code that a run starts goes below guarded(): there a SIGINT ends it, whatever it catches.
//   Later parts of it (timers, what goes on behind an await) run in the event loop; there the watcher ends it.
// - The user's code shares the process and can break everything but the kernel's own references:
//   what a run needs is kept in constants here, methods of built-in objects without their prototype.
// - Nothing of the kernel stays in the user's globals but display() and what an import becomes.
//
// The text is an expression: a function that languages/javascript.ini calls.
(require, nativeImport) => {
  'use strict';

  const fs = require('fs');
  const inspector = require('inspector');
  const Module = require('module');
  const net = require('net');
  const path = require('path');
  const { Writable } = require('stream');
  const { pathToFileURL } = require('url');
  const util = require('util');
  const { promiseHooks } = require('v8');
  const vm = require('vm');

  const { setImmediate, setInterval, clearInterval, console, process, Object, Array, String, Number, Error } = globalThis;
  // uncurry(String.prototype.slice)(text, 1) is text.slice(1), whatever the user makes of slice.
  const uncurry = Function.prototype.bind.bind(Function.prototype.call);
  const { defineProperty, keys } = Object;
  const hasOwn = uncurry(Object.prototype.hasOwnProperty);
  const { isPromise, isNativeError, isUint8Array } = util.types;
  const { inspect } = util;
  const { stringify } = JSON;
  const { readSync, writeSync } = fs;
  const ReadStream = fs.ReadStream;
  const { load: atomicsLoad, wait: atomicsWait, store: atomicsStore, exchange: atomicsExchange, notify: atomicsNotify } = Atomics;
  const bytesOf = Buffer.from;
  const isBuffer = Buffer.isBuffer;
  const toText = uncurry(Buffer.prototype.toString);
  const subarray = uncurry(Uint8Array.prototype.subarray);
  const slice = uncurry(String.prototype.slice);
  const split = uncurry(String.prototype.split);
  const indexOf = uncurry(String.prototype.indexOf);
  const charAt = uncurry(String.prototype.charAt);
  const startsWith = uncurry(String.prototype.startsWith);
  const endsWith = uncurry(String.prototype.endsWith);
  const repeat = uncurry(String.prototype.repeat);
  const trim = uncurry(String.prototype.trim);
  const indexIn = uncurry(Array.prototype.indexOf);
  const join = uncurry(Array.prototype.join);
  const push = uncurry(Array.prototype.push);
  const addTo = uncurry(Set.prototype.add);
  const deleteFrom = uncurry(Set.prototype.delete);
  const promiseThen = uncurry(Promise.prototype.then);
  const exec = uncurry(RegExp.prototype.exec);
  const realExit = process.reallyExit.bind(process);
  const kill = process.kill.bind(process);
  const { pid } = process;
  const tick = process._tickCallback.bind(process);
  const listenerCount = process.listenerCount.bind(process);
  const listenersOf = process.listeners.bind(process);
  const addListener = process.on.bind(process);
  const initPaths = Module._initPaths.bind(Module);
  const removeListener = process.off.bind(process);
  const nextTick = process.nextTick.bind(process);
  const emit = process.emit.bind(process);
  const currentFolder = process.cwd.bind(process);

  const CHANNEL_IN = 3;
  const CHANNEL_OUT = 4;
  const OUR_FILE = 'berth:kernel';
  const READ_SIZE = 64 << 10;
  const BODY_MAX = 31 << 20; // bytes of a result's data; init takes messages of 32 MiB
  const PLAIN_MAX = 1 << 20; // characters of what a value shows as text
  const VALUE_MAX = 16 << 10; // of an error's text
  const TRACEBACK_MAX = 128 << 10;
  const EXIT_ERROR = 1;
  const EXIT_INTERRUPTED = 130;
  const POLL_MS = 25; // how soon a SIGINT is seen that comes while a cell awaits
  const TOLD_POLLS = 8; // after which an interrupt needs no signal
  const SHOWN = { __proto__: null, maxStringLength: PLAIN_MAX };
  const SHOW = Symbol.for('Jupyter.display');

  const state = { run: null, guarded: 0, late: false, stash: undefined, nodePath: process.env.NODE_PATH };

  // --- output ---------------------------------------------------------------------------------

  const nap = new Int32Array(new SharedArrayBuffer(4));

  // Writes all, also where a child has made the pipe non-blocking. Throws what write(2) says else.
  function writeAll(fd, data) {
    for (let at = 0; at < data.length;) {
      try {
        at += writeSync(fd, data, at);
      } catch (error) {
        if (error.code !== 'EAGAIN') throw error;
        atomicsWait(nap, 0, 0, 2);
      }
    }
  }

  // A kernel that can't speak is none: init starts another one.
  function say(line) {
    try {
      writeAll(CHANNEL_OUT, bytesOf(line + '\n', 'utf8'));
    } catch {
      kill(pid, 'SIGKILL');
    }
  }

  // A stream that writes through and has no state that an interrupt in the midst of it could leave
  // behind. process.stdout of Node would make the pipe, which children have too, non-blocking.
  function makeOutput(fd) {
    const stream = new Writable();
    stream.fd = fd;
    stream._type = 'pipe';
    stream.write = (chunk, encoding, done) => {
      const callback = typeof encoding === 'function' ? encoding : done;
      const coding = typeof encoding === 'string' ? encoding : 'utf8';
      writeAll(fd, typeof chunk === 'string' ? bytesOf(chunk, coding) : chunk);
      if (typeof callback === 'function') nextTick(callback);
      return true;
    };
    stream.end = (chunk, encoding, done) => {
      if (chunk !== undefined && chunk !== null && typeof chunk !== 'function') stream.write(chunk, encoding, done);
      return stream;
    };
    stream.destroy = () => stream;
    return stream;
  }

  function define(object, name, value, enumerable = false) {
    defineProperty(object, name, { value, enumerable, writable: true, configurable: true });
  }

  const outputs = [makeOutput(1), makeOutput(2)];
  const methods = [{ ...outputs[0] }, { ...outputs[1] }];

  // Whatever the last run made of them.
  function restoreStreams() {
    for (const index of [0, 1]) {
      const name = index === 0 ? 'stdout' : 'stderr';
      for (const method of ['write', 'end', 'destroy']) outputs[index][method] = methods[index][method];
      if (process[name] === outputs[index]) continue;
      define(process, name, outputs[index], true);
      define(console, '_' + name, outputs[index]);
    }
    let stdin;
    defineProperty(process, 'stdin', {
      get: () => stdin || (stdin = new ReadStream(null, { fd: 0, autoClose: false })),
      set: (value) => { stdin = value; },
      enumerable: true,
      configurable: true,
    });
  }

  // --- messages -------------------------------------------------------------------------------

  function cut(text, limit) {
    if (text.length <= limit) return text;
    const half = limit >> 1;
    return `${slice(text, 0, half)}\n[... ${text.length - 2 * half} characters left out ...]\n` +
      slice(text, -half);
  }

  function replaceAll(text, from, to) {
    return join(split(text, from), to);
  }

  // Text that every reader of JSON takes: no lone surrogates, no NUL.
  function clean(text) {
    return replaceAll(toText(bytesOf(String(text), 'utf8'), 'utf8'), '\0', '\ufffd');
  }

  const quote = (text) => stringify(clean(text));

  // The JSON of one representation, or undefined when it is not one.
  function encodeMime(mime, value) {
    if (mime === 'application/json' || endsWith(mime, '+json')) {
      const text = stringify(value);
      return text === undefined || indexOf(text, '\\u0000') >= 0 ? undefined : clean(text);
    }
    if (isUint8Array(value)) {
      const bytes = isBuffer(value) ? value : bytesOf(value);
      return quote(toText(bytes, startsWith(mime, 'text/') ? 'utf8' : 'base64'));
    }
    return typeof value === 'string' ? quote(value) : undefined;
  }

  // What a value has to show besides its text: {mime: value}.
  function bundleOf(value) {
    if (value === null || (typeof value !== 'object' && typeof value !== 'function')) return {};
    for (const name of [SHOW, 'toMimeBundle']) {
      if (typeof value[name] !== 'function') continue;
      const bundle = value[name]();
      if (bundle !== null && typeof bundle === 'object' && !isPromise(bundle)) return bundle;
    }
    return {};
  }

  function emitResult(bundle) {
    const parts = [];
    let left = BODY_MAX;
    for (const mime of keys(bundle)) {
      const text = encodeMime(mime, bundle[mime]);
      if (text === undefined) continue;
      left -= 3 * mime.length + bytesOf(text, 'utf8').length;
      if (left < 0) {
        writeAll(2, bytesOf(`A result of ${text.length} characters as ${mime} was left out: too large.\n`));
        left += text.length;
      } else {
        push(parts, quote(mime) + ':' + text);
      }
    }
    if (state.run) say(`M {"type":"result","data":{${join(parts, ',')}}}`);
  }

  function represent(value) {
    const data = { __proto__: null, 'text/plain': cut(userFrames(inspect(value, SHOWN)), PLAIN_MAX) };
    let bundle = {};
    try {
      bundle = bundleOf(value);
    } catch (error) { // it costs that representation only
      writeAll(2, bytesOf(describe(error).traceback + '\n'));
    }
    for (const mime of keys(bundle)) data[mime] = bundle[mime];
    return data;
  }

  // display(value): a result in the midst of a cell; {raw: true}: the value is {mime: data} itself.
  function display(value, options) {
    emitResult(options && options.raw ? value : represent(value));
  }

  // --- errors ---------------------------------------------------------------------------------

  const OURS = /[( ](?:berth:kernel|node:internal\/|node:inspector):|[( ]node:internal\/|\.runInThisContext \(node:vm:/;

  // Text of a stack without the frames of the kernel and of Node's inside.
  function userFrames(text) {
    if (!exec(OURS, text)) return text;
    const kept = [];
    for (const line of split(text, '\n')) {
      if (startsWith(trim(line), 'at ') && exec(OURS, line)) {
        if (endsWith(line, ' {') && kept.length) kept[kept.length - 1] += ' {';
      } else {
        push(kept, line);
      }
    }
    return join(kept, '\n');
  }

  // {name, value, traceback} of whatever was thrown. Runs the user's code (inspect, getters).
  function describe(error) {
    try {
      const text = userFrames(inspect(error));
      if (!isNativeError(error) && !(error instanceof Error))
        return { name: 'Uncaught', value: text, traceback: `Uncaught ${text}` };
      return { name: String(error.name), value: String(error.message), traceback: text };
    } catch {
      return { name: 'Error', value: 'an error that can not be shown', traceback: 'an error that can not be shown' };
    }
  }

  // What Node says above an error of syntax: where it is.
  function syntaxPlace(run, details) {
    const lines = split(run.code, '\n');
    const { lineNumber, columnNumber } = details;
    const at = lineNumber < lines.length ? lineNumber : lines.length - 1;
    const column = at === lineNumber ? columnNumber : lines[at].length;
    return `${run.file}:${at + 1}\n${cut(lines[at], 1000)}\n${repeat(' ', column < 1000 ? column : 0)}^\n\n`;
  }

  function fail(run, error, details) {
    const { name, value, traceback } = describe(error);
    const ofCode = details && name === 'SyntaxError' && !exec(/\n +at /, traceback);
    const text = cut((ofCode ? syntaxPlace(run, details) : '') + traceback, TRACEBACK_MAX);
    tell(run, name, value, text);
    finish(run, EXIT_ERROR);
  }

  function tell(run, name, value, traceback) {
    try {
      writeAll(2, bytesOf(clean(traceback) + '\n', 'utf8'));
    } catch {
      // stderr may be closed; the message goes out all the same
    }
    say(`M {"type":"error","name":${quote(cut(name, VALUE_MAX))},"value":${quote(cut(value, VALUE_MAX))},` +
      `"traceback":${quote(traceback)}}`);
  }

  // --- imports --------------------------------------------------------------------------------

  // import() for what V8's REPL mode compiles, which has none of its own. NODE_PATH counts.
  async function importModule(specifier) {
    const name = String(specifier);
    if (endsWith(name, '.json')) return { default: require(name) };
    if (startsWith(name, './') || startsWith(name, '../') || startsWith(name, '/'))
      return nativeImport(pathToFileURL(path.resolve(currentFolder(), name)).href);
    try {
      return await nativeImport(name);
    } catch (error) {
      if (!error || error.code !== 'ERR_MODULE_NOT_FOUND') throw error;
      let found;
      try {
        found = require.resolve(name);
      } catch {
        throw error;
      }
      return nativeImport(pathToFileURL(found).href);
    }
  }

  // After these a slash divides; words that are no operands are the exception.
  const OPERAND = /[\w$\u0080-\uffff)\]}'"`]$/;
  const OPERATOR_WORD = /^(?:return|typeof|case|in|of|delete|void|throw|new|do|else|yield|await)$/;
  const STATIC_IMPORT = /import\s*(?:([^'"();]*?[\s}])from\s*)?(?:'([^'\n]+)'|"([^"\n]+)")(?:\s*(?:with|assert)\s*\{[^}]*\})?[ \t]*;?/y;
  const TOKEN = /\s+|\/\/[^\n]*|\/\*[^]*?\*\/|'(?:\\[^]|[^'\\\n])*'|"(?:\\[^]|[^"\\\n])*"|[\w$\u0080-\uffff]+|[^]/y;
  const REGEXP = /\/(?![*/])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\[\n])+\/\w*/y;
  const TEMPLATE_PART = /(?:\\[^]|\$(?!\{)|[^`\\$])*(?:`|\$\{)/y;

  function matchAt(pattern, text, at) {
    pattern.lastIndex = at;
    return exec(pattern, text);
  }

  // One import declaration as statements of a script, with as many lines.
  function scriptImport(match) {
    const call = `await $mport(${stringify(match[2] || match[3])})`;
    const clause = trim(match[1] || '');
    const whole = exec(/\*\s*as\s+([\w$\u0080-\uffff]+)/, clause);
    const single = exec(/^([\w$\u0080-\uffff]+)/, clause);
    const listed = exec(/\{([^}]*)\}/, clause);
    const names = single ? [`default: ${single[1]}`] : [];
    for (const item of listed ? split(listed[1], ',') : [])
      if (trim(item) !== '') push(names, join(split(trim(item), /\s+as\s+/), ': '));
    let text = call;
    if (whole) text = `const ${whole[1]} = ${call}` + (names.length ? `, {${join(names, ', ')}} = ${whole[1]}` : '');
    else if (clause !== '') text = `const {${join(names, ', ')}} = ${call}`;
    return `${text};` + repeat('\n', split(match[0], '\n').length - 1);
  }

  // What stands for an import at a place of the code: [text, length], or undefined.
  function importAt(code, at, top) {
    if (exec(/^import\s*\(/, slice(code, at, at + 100))) return ['$mport', 6];
    if (exec(/^import\s*\.\s*meta\b/, slice(code, at, at + 100))) return ['$mport', 6];
    const match = top ? matchAt(STATIC_IMPORT, code, at) : null;
    return match ? [scriptImport(match), match[0].length] : undefined;
  }

  // The token at a place. A template is cut at each ${ and goes on behind its }.
  function tokenAt(code, at, before, inTemplate) {
    const c = charAt(code, at);
    if (c === '`' || (c === '}' && inTemplate)) {
      const part = matchAt(TEMPLATE_PART, code, at + 1);
      return part ? c + part[0] : slice(code, at);
    }
    if (c === '/' && (!exec(OPERAND, before) || exec(OPERATOR_WORD, before))) {
      const regexp = matchAt(REGEXP, code, at);
      if (regexp) return regexp[0];
    }
    return matchAt(TOKEN, code, at)[0];
  }

  // The code with import declarations and import() as calls of importModule(). A tokenizer, not a
  // parser: it knows strings, templates, comments and, by what stands before, regular expressions.
  function withoutImports(code) {
    if (indexOf(code, 'import') < 0) return code;
    const out = [];
    const open = []; // brackets; '`' is a template around a ${
    let before = '';
    for (let at = 0; at < code.length;) {
      const inTemplate = open[open.length - 1] === '`';
      const token = tokenAt(code, at, before, inTemplate);
      const change = token === 'import' && before !== '.' ? importAt(code, at, open.length === 0) : undefined;
      push(out, change ? change[0] : token);
      at += change ? change[1] : token.length;
      if (exec(/^(?:\s|\/\/|\/\*)/, token)) continue;
      const first = charAt(token, 0);
      const template = first === '`' || (first === '}' && inTemplate);
      if ((first === ')' || first === ']' || first === '}') && open.length) open.length -= 1;
      if (template ? endsWith(token, '${') : token === '(' || token === '[' || token === '{')
        push(open, template ? '`' : token);
      before = template ? (endsWith(token, '${') ? '{' : '`') : change && change[1] > 6 ? ';' : token;
    }
    return join(out, '');
  }

  // --- signals --------------------------------------------------------------------------------

  // Node's own watchdog of SIGINT (vm's breakOnSigint). Held all the time, so that no SIGINT meets
  // the default action, and asked while a cell awaits. Without it a late SIGINT ends the process.
  const watchdog = (() => {
    try {
      const { startSigintWatchdog, stopSigintWatchdog, watchdogHasPendingSigint } = process.binding('contextify');
      startSigintWatchdog();
      return { start: startSigintWatchdog, stop: stopSigintWatchdog, pending: watchdogHasPendingSigint };
    } catch {
      return { start() {}, stop() {}, pending: () => false };
    }
  })();

  // A listener of the user's would make libuv take the signal. It does not get that far: it is
  // called before the run is stopped.
  function ownSignal() {
    for (const listener of listenersOf('newListener')) {
      if (listener.name !== 'startListeningIfSignal') continue;
      removeListener('newListener', listener);
      addListener('newListener', (name) => { if (name !== 'SIGINT') listener(name); });
    }
  }

  // Forgets a signal that came while no code ran; whether there was one. An I behind the end of its
  // run announces one, which takes a moment to come through Node's own thread.
  function dropLateSignal() {
    for (let i = 0; state.late && i < 25 && !watchdog.pending() && atomicsLoad(shared, COUNT) === 0; i++)
      atomicsWait(nap, 0, 0, 2);
    state.late = false;
    watchdog.start();
    const late = watchdog.stop();
    const watched = atomicsExchange(shared, COUNT, 0) > 0;
    if (watched) acknowledge();
    return late || watched;
  }

  const GUARD = new vm.Script('{ const code = this["\\0guarded"]; delete this["\\0guarded"]; code(); }', OUR_FILE);
  const runGuard = GUARD.runInThisContext.bind(GUARD, { breakOnSigint: true, displayErrors: false });

  // Calls code; a SIGINT ends it and all that it called. True when that happened.
  function guarded(code) {
    define(globalThis, '\0guarded', code);
    state.guarded = true;
    try {
      runGuard();
      return false;
    } catch (error) {
      if (error && error.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED') return true;
      throw error;
    } finally {
      state.guarded = false;
    }
  }

  const runBriefly = GUARD.runInThisContext.bind(GUARD, { timeout: 20, displayErrors: false });

  // What an interrupted cell left for microtasks goes on only for as long as that takes no time; a
  // loop without end among it would run when nobody can end it. Whoever is ended takes the queue along.
  function settle() {
    for (let tries = 0; tries < 20; tries++) {
      define(globalThis, '\0guarded', tick);
      try {
        return runBriefly();
      } catch (error) {
        if (!error || error.code !== 'ERR_SCRIPT_EXECUTION_TIMEOUT') return undefined;
      }
    }
    return undefined;
  }

  // What ends a loop without end behind an await: a thread that gets the SIGINT when nothing is
  // guarded (now and then when something is), and ends the code of the main thread when that does
  // not see it in its event loop.
  const shared = new Int32Array(new SharedArrayBuffer(16));
  const [COUNT, SEEN, RUNNING] = [0, 1, 2]; // of shared
  const WATCHER = `
    const { workerData: { shared, COUNT, SEEN, RUNNING } } = require('worker_threads');
    const { Session } = require('inspector');
    const forever = new Int32Array(new SharedArrayBuffer(4));
    globalThis.wait = () => { for (;;) Atomics.wait(forever, 0, 0); };
    const script = new (require('vm').Script)('wait()');
    const watchdog = process.binding('contextify');
    for (;;) {
      try { // a signal may have come before this thread was there
        if (!watchdog.watchdogHasPendingSigint()) script.runInThisContext({ breakOnSigint: true });
        watchdog.startSigintWatchdog(); // forgets it
        watchdog.stopSigintWatchdog();
        throw 0;
      } catch {
        Atomics.store(shared, SEEN, 0);
        Atomics.add(shared, COUNT, 1);
        Atomics.wait(shared, SEEN, 0, 150);
        if (Atomics.load(shared, SEEN) !== 0 || Atomics.load(shared, RUNNING) === 0) continue;
        const session = new Session();
        session.connectToMainThread();
        session.post('Runtime.terminateExecution');
        Atomics.wait(forever, 0, 0, 20);
        session.disconnect();
      }
    }`;
  let watching = false;

  function startWatcher() {
    if (watching) return;
    watching = true;
    try {
      const { Worker } = require('worker_threads');
      const worker = new Worker(WATCHER, {
        eval: true, workerData: { shared, COUNT, SEEN, RUNNING }, execArgv: [], env: {},
        resourceLimits: { maxOldGenerationSizeMb: 16 },
      });
      worker.on('error', () => {});
      worker.unref();
    } catch {
      // no thread to be had: such a loop is ended with the kernel then
    }
  }

  function acknowledge() {
    atomicsStore(shared, SEEN, 1);
    atomicsNotify(shared, SEEN);
  }

  // --- runs -----------------------------------------------------------------------------------

  const session = new inspector.Session();
  session.connect();
  const post = session.post.bind(session);
  const pending = new Set(); // promises of cells
  const stash = (value) => { state.stash = value; };
  let stashId;

  function findStash() {
    define(globalThis, '\0stash', stash);
    post('Runtime.evaluate', { expression: 'globalThis["\\0stash"]', objectGroup: 'kernel' },
      (error, answer) => { stashId = answer.result.objectId; });
    delete globalThis['\0stash'];
  }

  // The value itself that the inspector speaks of.
  function valueOf(remote) {
    const { objectId, unserializableValue, value } = remote;
    const argument = objectId ? { objectId } : unserializableValue ? { unserializableValue } : { value };
    state.stash = undefined;
    post('Runtime.callFunctionOn', { objectId: stashId, functionDeclaration: 'function (value) { this(value) }',
      arguments: [argument], silent: true });
    const found = state.stash;
    state.stash = undefined;
    return found;
  }

  // An object literal is meant where a cell is one; as a program it would be a block.
  function asExpression(code) {
    const text = trim(code);
    if (!startsWith(text, '{') || !endsWith(text, '}')) return code;
    try {
      new vm.Script(`(${code}\n)`);
      return `(${code}\n)`;
    } catch {
      return code;
    }
  }

  // Keeps the next promise that is made, which is that of the cell, until what it returns is called.
  // When garbage collection takes it, the inspector says so at once, and that is the end of Node.
  function holdPromise() {
    let promise;
    const stopHook = promiseHooks.onInit((made) => {
      if (promise === undefined) {
        promise = made;
        addTo(pending, made);
      }
      stopHook();
    });
    return () => {
      stopHook();
      deleteFrom(pending, promise);
    };
  }

  function evaluate(run) {
    const expression = `${asExpression(withoutImports(run.code))}\n//# sourceURL=${run.file}`;
    const unhold = holdPromise();
    post('Runtime.evaluate', { expression, replMode: true, silent: true, objectGroup: 'cell' }, (error, answer) => {
      unhold();
      if (state.run !== run) return;
      if (error) then(run, () => withoutAnswer(run, error));
      else if (answer.exceptionDetails)
        thenFail(run, valueOf(answer.exceptionDetails.exception || answer.result), answer.exceptionDetails);
      else conclude(run, valueOf(answer.result));
    });
  }

  // The inspector could not tell: the cell ended by process.exit() or a signal, or a cell has
  // destroyed the inspector (Node does, when a process signals itself), and with it the kernel.
  function withoutAnswer(run, error) {
    if (run.exit !== undefined) return stop(run);
    if (indexOf(error.message, 'context') < 0) return interrupt(run);
    tell(run, 'Error', 'the kernel was broken by the code in it', 'the kernel was broken by the code in it');
    say(`E ${EXIT_ERROR}`);
    realExit(EXIT_ERROR);
  }

  // A promise as the last value is awaited, so that what it prints and throws is the cell's.
  function conclude(run, value) {
    if (isPromise(value)) promiseThen(value, (settled) => then(run, () => show(run, settled)), (error) => thenFail(run, error));
    else then(run, () => show(run, value));
  }

  function show(run, value) {
    if (value !== undefined) emitResult(represent(value));
    finish(run, (Number(process.exitCode) || 0) & 255);
  }

  function thenFail(run, error, details) {
    then(run, () => fail(run, error, details));
  }

  // What a run does next; the first error of it wins.
  function then(run, step) {
    if (run.next && run.crashed) return;
    run.next = step;
    if (!state.guarded) setImmediate(() => advance(run));
  }

  // Takes the steps that are there. User code runs in them, and what it left for microtasks.
  function advance(run) {
    while (state.run === run && run.next) {
      const step = run.next;
      run.next = null;
      let interrupted;
      try {
        interrupted = guarded(() => { step(); tick(); });
      } catch (error) {
        interrupted = run.exit !== undefined; // null is thrown then
        run.crashed = true;
        run.next = () => fail(run, error);
      }
      if (interrupted) interrupt(run);
    }
    run.waits = true;
  }

  // The signal follows its I, which is seen first while a cell awaits. It is waited for, so that it
  // does not meet the next run.
  function poll(run) {
    if (state.run !== run) return;
    if (run.waits) startWatcher();
    const watched = atomicsExchange(shared, COUNT, 0) > 0;
    if (watched) acknowledge();
    if (run.told) run.told += 1;
    if (watched || watchdog.pending() || run.told > TOLD_POLLS) interrupt(run);
  }

  function interrupt(run) {
    state.guarded = false;
    try {
      const own = run.exit === undefined ? listenersOf('SIGINT') : []; // vm hides them below guarded()
      if (own.length > 0) guarded(() => { for (let i = 0; i < own.length; i++) own[i]('SIGINT', 2); });
    } catch (error) {
      writeAll(2, bytesOf(describe(error).traceback + '\n', 'utf8'));
    }
    settle();
    stop(run);
  }

  // After a SIGINT: the user's, or that of process.exit().
  function stop(run) {
    if (!run || state.run !== run) return;
    state.guarded = false;
    if (run.exit === undefined) tell(run, 'Interrupted', 'the execution was interrupted', 'Interrupted');
    finish(run, run.exit === undefined ? EXIT_INTERRUPTED : run.exit);
  }

  function finish(run, code) {
    if (state.run !== run) return;
    state.run = null;
    clearInterval(run.poll);
    atomicsStore(shared, RUNNING, 0);
    post('Runtime.releaseObjectGroup', { objectGroup: 'cell' });
    if (process.exitCode !== undefined) process.exitCode = undefined;
    say(`D ${code}`);
  }

  // Ends the code that runs, whatever it would catch; the run goes on with stop().
  function leave(run) {
    setImmediate(() => stop(run));
    post('Runtime.terminateExecution');
    for (;;);
  }

  // Ends the run with a code, as it ends a program; the state stays.
  function exit(code) {
    const { run } = state;
    if (run) run.exit = (Number(code === undefined ? process.exitCode : code) || 0) & 255;
    leave(run);
  }

  // A process that sends itself SIGINT interrupts the run. Node would destroy the inspector first.
  function killOther(target, signal) {
    if (target !== pid || (signal !== 'SIGINT' && signal !== 2)) return kill(target, signal);
    if (listenerCount('SIGINT') > 0) return setImmediate(() => emit('SIGINT', 'SIGINT', 2)) && true;
    leave(state.run);
  }

  // Of a timer, a callback, a promise that nobody handles. Node would end; here the run does.
  function onUncaught(error) {
    if (listenerCount('uncaughtException') > 1) return; // the user's own takes it
    const { run } = state;
    if (!run) {
      writeAll(2, bytesOf(describe(error).traceback + '\n', 'utf8'));
    } else if (!run.crashed) {
      run.crashed = true;
      run.next = () => fail(run, error);
      if (!state.guarded) setImmediate(() => advance(run));
    }
  }

  // What the last run may have taken away.
  function restore() {
    restoreStreams();
    if (indexIn(listenersOf('uncaughtException'), onUncaught) < 0) addListener('uncaughtException', onUncaught);
    if (process.exit !== exit) define(process, 'exit', exit, true);
    if (process.kill !== killOther) define(process, 'kill', killOther, true);
    if (process.env.NODE_PATH !== state.nodePath) {
      state.nodePath = process.env.NODE_PATH;
      initPaths();
    }
    // Messages to the inspector are JSON.
    for (const { prototype } of [Object, Array, String, Number]) if (hasOwn(prototype, 'toJSON')) delete prototype.toJSON;
  }

  // --- the channel ----------------------------------------------------------------------------

  const ESCAPE = /\\([\\nrt])/;
  const ESCAPED = { __proto__: null, '\\': '\\', n: '\n', r: '\r', t: '\t' };

  function unescape(text) {
    const parts = split(text, ESCAPE); // every second one is what stood behind a backslash
    for (let i = 1; i < parts.length; i += 2) parts[i] = ESCAPED[parts[i]];
    return join(parts, '');
  }

  // X <id> <timeout ms> <file> <code>
  function take(line) {
    const fields = exec(/^X ([^ ]*) ([^ ]*) ([^ ]*) ([^]*)$/, line);
    if (!fields || state.run) return;
    const run = { id: fields[1], code: unescape(fields[4]), file: fields[3], next: null, poll: null,
      exit: undefined, crashed: false, waits: false, told: 0 };
    state.run = run;
    state.guarded = false;
    try {
      restore();
    } catch {
      // the run shows what is missing
    }
    run.next = () => evaluate(run);
    run.poll = setInterval(() => poll(run), POLL_MS); // before all else: it also goes on when that is ended
    atomicsStore(shared, RUNNING, 1);
    if (dropLateSignal()) lookAhead();
    if (run.told) interrupt(run);
    else advance(run);
  }

  // A SIGINT that was there before the code began was this run's when its I is there too.
  function lookAhead() {
    try {
      onBytes(readSync(CHANNEL_IN, ahead, 0, ahead.length), ahead);
    } catch {
      // EAGAIN: it was a late one of the run before
    }
  }

  // What Node would have loaded at its start: it leads fetch() through the proxy, say.
  function setVariable(name, value) {
    process.env[name] = value;
    const preload = name === 'NODE_OPTIONS' ? exec(/^--require=(\S+)$/, value) : null;
    try {
      if (preload) require(preload[1]);
    } catch {
      // what it is for does not work then
    }
  }

  function takeLine(line) {
    const kind = slice(line, 0, 2);
    const { run } = state;
    const set = kind === 'V ' ? exec(/^([^=]+)=([^]*)$/, unescape(slice(line, 2))) : null;
    if (set) setVariable(set[1], set[2]);
    else if (kind === 'X ') take(line);
    else if (kind === 'I ' && !run) state.late = true;
    else if (kind === 'I ' && run && run.id === slice(line, 2)) run.told = 1;
  }

  const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  const decode = decoder.decode.bind(decoder);
  const ahead = bytesOf(new ArrayBuffer(READ_SIZE));
  const pieces = [];

  function onBytes(size, buffer) {
    const lines = split(decode(subarray(buffer, 0, size), { stream: true }), '\n');
    for (let i = 0; i < lines.length; i++) {
      push(pieces, lines[i]);
      if (i === lines.length - 1) break;
      const line = join(pieces, '');
      pieces.length = 0;
      takeLine(line);
    }
    return true;
  }

  function listen() {
    const channel = new net.Socket({ fd: CHANNEL_IN, readable: true, writable: false,
      onread: { buffer: bytesOf(new ArrayBuffer(READ_SIZE)), callback: onBytes } });
    for (const event of ['end', 'close', 'error']) channel.on(event, () => realExit(0));
  }

  const importMeta = {
    get url() { return pathToFileURL(path.join(currentFolder(), 'cell.mjs')).href; },
    get filename() { return path.join(currentFolder(), 'cell.mjs'); },
    get dirname() { return currentFolder(); },
    resolve: (name) => pathToFileURL(require.resolve(name)).href,
  };
  define(globalThis, 'display', display);
  define(globalThis, '$mport', Object.assign((name) => importModule(name), { meta: importMeta }));
  findStash();
  ownSignal();
  restore();
  listen();
  say('R');
}
