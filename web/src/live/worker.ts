// One for all tabs of the page.
import { Hub, type Tab } from './hub';
import type { ToHub } from './protocol';

const hub = new Hub();
hub.start();

(self as unknown as { onconnect: (e: MessageEvent) => void }).onconnect = (e) => {
  const port = e.ports[0];
  if (!port) return;
  const tab: Tab = { post: (m) => port.postMessage(m), watch: new Set(), seen: true };
  port.onmessage = (m: MessageEvent<ToHub>) => hub.take(tab, m.data);
  port.start();
};
