// What the view of a disk takes of the model.
export { parts, slowest, staleAfter, type Disk } from './model';
export { words } from './format';
