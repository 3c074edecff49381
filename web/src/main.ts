import { mount } from 'svelte';
import './app.css';
import App from './App.svelte';
import { afterFrame } from './lib/frame';
import { router } from './lib/router.svelte';
import { themes } from './lib/theme.svelte';
import { live } from './live/live.svelte';

// The browser has asked for the first rows beside the scripts, so they are mostly there: they are drawn with the frame,
// and the worker, whose start would take the processor away from that, comes after it.
const patience = 150; // ms
themes.start();
router.start();
void start();

async function start(): Promise<void> {
  await Promise.race([live.first(), new Promise((done) => setTimeout(done, patience))]);
  const target = document.getElementById('app');
  if (target) mount(App, { target });
  afterFrame(() => live.start());
}
