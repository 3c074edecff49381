import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

// The names of built files are stable, and nothing is inlined: the page's Content-Security-Policy allows only files of
// its own address.
const names = {
  entryFileNames: 'assets/[name].js',
  chunkFileNames: 'assets/[name].js',
  assetFileNames: 'assets/[name][extname]',
};

const daemon = 'http://127.0.0.1:8081';
const proxy = Object.fromEntries(['/api', '/livez', '/docs', '/metrics', '/openapi.json'].map((at) => [at, daemon]));

export default defineConfig({
  plugins: [svelte()],
  worker: { format: 'es', rolldownOptions: { output: names } },
  build: {
    outDir: 'dist',
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    rolldownOptions: { output: names },
  },
  server: { proxy },
  preview: { proxy },
});
