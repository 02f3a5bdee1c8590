// `make web`: bundle all panels into one file, ../static/panels.js. Its first line holds a hash of the
// sources, so that a test can tell without npm whether it is current.
import {createHash} from 'node:crypto';
import {readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {createRequire} from 'node:module';

const here = new URL('./', import.meta.url);
const {build} = createRequire(`${process.argv[2]}/`)('esbuild');
const sources = readdirSync(here).filter(n => /\.(js|css)$/.test(n) || n.startsWith('package')).sort();
const hash = createHash('sha256');
for (const name of sources) hash.update(`${name}\n`).update(readFileSync(new URL(name, here)));
const version = hash.digest('hex').slice(0, 12);

const {outputFiles} = await build({
  entryPoints: [new URL('index.js', here).pathname],
  bundle: true,
  minify: true,
  format: 'esm',
  target: 'es2022',
  charset: 'utf8',
  legalComments: 'none',
  loader: {'.css': 'text'},
  nodePaths: [`${process.argv[2]}/node_modules`],
  banner: {js: `/* pruneviz panels ${version} */`},
  write: false,
});
const out = new URL('../static/panels.js', here);
if (process.argv[3] === '--check') {
  if (readFileSync(out, 'utf8') !== outputFiles[0].text) throw new Error('static/panels.js is not what `make web` builds');
} else writeFileSync(out, outputFiles[0].text);
