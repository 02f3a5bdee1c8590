// What the linter insists on. No `document` and no HTML from text: a panel may stand in a shadow root,
// and a layer may be called <img src=x onerror=…>.
const ours = {
  'no-undef': 'error',
  'no-unused-vars': 'error',
  'no-use-before-define': ['error', {functions: false, variables: false}],
  'no-shadow': 'error',
  'no-var': 'error',
  'prefer-const': 'error',
  'eqeqeq': 'error',
  'no-implicit-globals': 'error',
  'no-eval': 'error',
  'no-console': 'error',
  'no-restricted-globals': ['error', 'document', 'window', 'fetch', 'XMLHttpRequest', 'WebSocket'],
  'no-restricted-properties': ['error',
    ...['innerHTML', 'outerHTML', 'insertAdjacentHTML', 'html'].map(property => ({property, message: 'Set text.'}))],
  'max-lines-per-function': ['error', {max: 90}],
};
const known = names => Object.fromEntries(names.map(n => [n, 'readonly']));

export default [
  {files: ['**/*.js'], rules: ours, languageOptions: {globals: known(['DOMPoint'])}},
  {
    files: ['**/build.js', '**/*.test.js'],
    rules: {'no-shadow': 'off'},
    languageOptions: {globals: known(['process', 'URL', 'Buffer', 'DataView'])},
  },
];
