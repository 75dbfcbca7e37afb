// Leads fetch() of Node through the proxy of a sandbox with network "egress": Node before 22.21 and 24
// ignores the variables. Loaded by NODE_OPTIONS, so it does nothing but wrap fetch() until that is
// called. http.request() is left alone: it goes by what it was told, and programs that use it ask the
// variables themselves.
'use strict';
const [major, minor] = process.versions.node.split('.').map(Number);
const knows = major >= 24 || (major === 22 && minor >= 21);
const original = globalThis.fetch;

function proxyOf(protocol) {
  const env = process.env;
  const text = protocol === 'https:' ? env.https_proxy || env.HTTPS_PROXY : env.http_proxy || env.HTTP_PROXY;
  return text ? new URL(text) : null;
}

function isDirect(host) {
  const list = (process.env.no_proxy || process.env.NO_PROXY || '').split(/[\s,]+/).filter(Boolean);
  const name = host.replace(/^\[|\]$/g, '');
  return list.some(one => one === '*' || one === name || name.endsWith('.' + one.replace(/^\./, '')));
}

// A socket through the proxy by CONNECT; what the proxy says to a refusal is the error.
function tunnel(proxy, host, port, done) {
  const ask = require('http').request({
    host: proxy.hostname, port: proxy.port || 80, method: 'CONNECT', agent: false,
    path: `${host}:${port}`, headers: {host: `${host}:${port}`}});
  ask.once('error', done);
  ask.once('connect', (answer, socket, head) => {
    if (answer.statusCode === 200) return done(null, socket);
    let text = head;
    socket.on('data', piece => { text = Buffer.concat([text, piece]); });
    socket.once('close', () => done(new Error(String(text).trim() || `proxy: ${answer.statusCode}`)));
  });
  ask.end();
}

function secured(socket, options, done) {
  const secure = require('tls').connect({
    socket, servername: options.servername || options.hostname, ALPNProtocols: ['http/1.1']});
  const fail = problem => done(problem);
  secure.once('error', fail);
  secure.once('secureConnect', () => { secure.removeListener('error', fail); done(null, secure); });
}

function connector(options, done) {
  const https = options.protocol === 'https:';
  const port = Number(options.port) || (https ? 443 : 80);
  const proxy = isDirect(options.hostname) ? null : proxyOf(options.protocol);
  const after = (problem, socket) => {
    if (problem) return done(problem, null);
    return https ? secured(socket, options, done) : done(null, socket);
  };
  if (proxy) return tunnel(proxy, options.hostname, port, after);
  const socket = require('net').connect(port, options.hostname.replace(/^\[|\]$/g, ''));
  socket.once('error', after);
  socket.once('connect', () => { socket.removeListener('error', after); after(null, socket); });
  return undefined;
}

if (typeof original === 'function' && !knows) {
  let ready = false;
  globalThis.fetch = function fetch(input, init) {
    const place = Symbol.for('undici.globalDispatcher.1');
    if (!ready) {
      ready = true;
      void new Headers(); // loads what fetch() is made of
      const Agent = globalThis[place] && globalThis[place].constructor;
      if (Agent && Agent.name === 'Agent') globalThis[place] = new Agent({connect: connector});
    }
    return original.call(globalThis, input, init);
  };
}
