// What each verb does, in the words of its dialog.
import type { Verb } from './model';

export type Choice = 'none' | 'purge' | 'fresh';
type Meaning = { label: string; doing: string; danger: boolean; ask: boolean; option: Choice; text: string };

export const verbs: Record<Verb, Meaning> = {
  pause: {
    label: 'Pause', doing: 'Pausing', danger: false, ask: true, option: 'none',
    text: 'Copying stops after what was read is flushed and recorded. The snapshot stays, and grows while the guest ' +
      'writes: resume before the datastore is full. Nothing is copied again after a resume.',
  },
  resume: {
    label: 'Resume', doing: 'Resuming', danger: false, ask: false, option: 'none',
    text: 'Each disk goes on where it was.',
  },
  sync: {
    label: 'Sync', doing: 'Syncing', danger: false, ask: false, option: 'none',
    text: 'One more round moves what the guest has changed since the last one. The guest goes on running.',
  },
  cutover: {
    label: 'Cut over', doing: 'Cutting over', danger: true, ask: true, option: 'none',
    text: 'The last round moves what has changed, then the job ends as completed. What the guest writes after the ' +
      'snapshot of this round is not on the targets: shut the guest down first, unless that is meant.',
  },
  cancel: {
    label: 'Cancel', doing: 'Cancelling', danger: true, ask: true, option: 'purge',
    text: 'Copying stops and the snapshot is removed from the VM. The VM itself is not touched. What is on the ' +
      'targets stays, and a later job of the same VM goes on from it.',
  },
  retry: {
    label: 'Retry', doing: 'Retrying', danger: false, ask: true, option: 'fresh',
    text: 'The job is queued again. Disks that are complete are kept, and the others go on from what is durable.',
  },
  delete: {
    label: 'Delete', doing: 'Deleting', danger: true, ask: true, option: 'none',
    text: 'The record of the job and its events are forgotten. Its targets and the VM are not touched.',
  },
};

export const verbOrder: Verb[] = ['cutover', 'sync', 'resume', 'pause', 'retry', 'cancel', 'delete'];

export const optionText: Record<Exclude<Choice, 'none'>, { label: string; text: string }> = {
  purge: {
    label: 'Remove the targets that the job made, too',
    text: 'Everything that was copied to them is lost. Targets that were there before the job are kept.',
  },
  fresh: {
    label: 'Start afresh',
    text: 'All disks are copied again from their beginning.',
  },
};
