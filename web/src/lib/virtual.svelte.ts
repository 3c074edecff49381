// Rows that exist only while they are near the screen. The window scrolls.
import {
  observeWindowOffset, observeWindowRect, Virtualizer, windowScroll, type VirtualItem,
} from '@tanstack/virtual-core';
import { afterFrame } from './frame';

export class VirtualRows {
  items = $state.raw<VirtualItem[]>([]);
  total = $state(0);
  #v: Virtualizer<Window, Element> | null = null;
  #count = 0;
  #height = 52;
  #list: HTMLElement | null = null;
  #more = 0; // rows beyond the edges of the screen

  /** attach begins to follow the window; what it returns ends that. */
  attach(list: HTMLElement): () => void {
    this.#list = list;
    this.#v = new Virtualizer<Window, Element>(this.#options());
    const end = this.#v._didMount();
    this.#v._willUpdate();
    this.#show();
    // Only what is seen is drawn at first.
    afterFrame(() => {
      this.#more = 8;
      this.#v?.setOptions(this.#options());
      this.#show();
    });
    return () => {
      end();
      this.#v = null;
      this.#more = 0;
    };
  }

  set(count: number, height: number): void {
    const other = height !== this.#height;
    if (!other && count === this.#count && this.items.length) return; // else each change would measure the page
    this.#count = count;
    this.#height = height;
    if (!this.#v) return;
    this.#v.setOptions(this.#options());
    this.#v._willUpdate();
    if (other) this.#v.measure();
    this.#show();
  }

  show(index: number): void {
    this.#v?.scrollToIndex(index, { align: 'auto' });
  }

  #options() {
    return {
      count: this.#count,
      getScrollElement: () => window,
      estimateSize: () => this.#height,
      overscan: this.#more,
      scrollMargin: this.#list ? this.#list.getBoundingClientRect().top + scrollY : 0,
      scrollPaddingStart: 110,
      scrollPaddingEnd: 20,
      initialRect: { width: innerWidth, height: innerHeight },
      initialOffset: () => scrollY,
      observeElementRect: observeWindowRect,
      observeElementOffset: observeWindowOffset,
      scrollToFn: windowScroll,
      onChange: () => this.#show(),
    };
  }

  #show(): void {
    if (!this.#v) return;
    this.items = this.#v.getVirtualItems();
    this.total = this.#v.getTotalSize();
  }

  /** top is where an item lies within the list. */
  top(item: VirtualItem): number {
    return item.start - (this.#v?.options.scrollMargin ?? 0);
  }
}
