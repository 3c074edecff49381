import { mount } from 'svelte';
import './app.css';
import App from './App.svelte';
import { router } from './lib/router.svelte';
import { themes } from './lib/theme.svelte';
import { live } from './live/live.svelte';

themes.start();
router.start();
live.start();
const target = document.getElementById('app');
if (target) mount(App, { target });
