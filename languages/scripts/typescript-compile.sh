# Checks and translates one file. Names of Node's are declared as any where a library layer has no types of Node;
# without the browser's library a check takes half as long.
set -eu
source=$1
modules=/opt/libraries/node_modules

# What has no types is any; types that are found go before this.
echo "declare module '*';" >/tmp/node.d.ts
[ -d $modules/@types/node ] || cat >>/tmp/node.d.ts <<'END'
declare var console: any, process: any, require: any, module: any, exports: any, global: any;
declare var __dirname: string, __filename: string, Buffer: any, URL: any, URLSearchParams: any;
type Buffer = any; type URL = any; declare var TextEncoder: any, TextDecoder: any, fetch: any;
declare function setTimeout(f: (...a: any[]) => void, ms?: number, ...a: any[]): any;
declare function setInterval(f: (...a: any[]) => void, ms?: number, ...a: any[]): any;
declare function setImmediate(f: (...a: any[]) => void, ...a: any[]): any;
declare function queueMicrotask(f: () => void): void;
declare function clearTimeout(t: any): void; declare function clearInterval(t: any): void;
declare var AbortController: any, structuredClone: any, performance: any, crypto: any;
END

set -- -t es2022 -m commonjs --moduleResolution node --esModuleInterop --lib es2022 --moduleDetection force --strict --skipLibCheck
[ -d $modules ] || exec tsc "$@" "$source" /tmp/node.d.ts >&2

# Where packages lie can be said in a file only.
cat >/tmp/tsconfig.json <<END
{"compilerOptions": {"baseUrl": "/", "typeRoots": ["$modules/@types"], "paths": {"*": ["$modules/*", "$modules/@types/*"]}},
 "files": ["$PWD/$source", "/tmp/node.d.ts"]}
END
exec tsc -p /tmp/tsconfig.json "$@" >&2
