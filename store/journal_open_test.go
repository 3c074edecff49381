package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/store"
)

func TestASecondProcessIsRefusedByName(t *testing.T) {
	dir := t.TempDir()
	openJournal(t, dir)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "in use by process "+strconv.Itoa(os.Getpid())) {
		t.Errorf("the second process printed %q (%v)", out, err)
	}
	_, err = store.OpenJournal(t.Context(), dir)
	wantKind(t, err, job.Conflict)
}

// writeForever accepts jobs, saves events and commits sets, and prints a line for each that was acknowledged.
func writeForever(ctx context.Context, dir string) error {
	j, err := store.OpenJournal(ctx, dir)
	if err != nil {
		return err
	}
	epoch, err := j.NextEpoch(ctx, noon())
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		name := fmt.Sprintf("%d.%d", epoch, n)
		st := state(job.ID(name), "/"+name)
		if err := j.Create(ctx, st, nil); err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, "job", name, 0)
		if err := j.Save(ctx, then(st, job.Preflight), []byte("{}")); err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, "job", name, 1)
		set := job.CheckpointSet{
			VMUUID: "U", Job: st.ID, Round: 1,
			Disks: []job.DiskCheckpoint{{Disk: "disk-2000"}, {Disk: "disk-2001"}},
		}
		if err := j.Commit(ctx, set); err != nil {
			return err
		}
		fmt.Fprintln(os.Stdout, "set", name, epoch)
	}
}

func TestWhatWasAcknowledgedSurvivesKill(t *testing.T) {
	dir := t.TempDir()
	seqs, set, epoch := map[job.ID]int64{}, "", int64(0)
	for round := range 4 {
		killWriter(t, dir, 40+17*round, func(what, name string, n int64) {
			if what == "set" {
				set, epoch = name, n
			} else {
				seqs[job.ID(name)] = n
			}
		})
		j, err := store.OpenJournal(t.Context(), dir)
		must(t, err)
		checkSurvivors(t, j, seqs, set, epoch)
		must(t, j.Close())
	}
	if len(seqs) < 40 {
		t.Errorf("only %d jobs were acknowledged", len(seqs))
	}
}

// killWriter runs writeForever in another process, kills it after that many lines, and calls line for all lines.
func killWriter(t *testing.T, dir string, lines int, line func(what, name string, n int64)) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	scan, got := bufio.NewScanner(out), 0
	for scan.Scan() { // also after the kill, up to the end of the pipe
		var what, name string
		var n int64
		if _, err := fmt.Sscan(scan.Text(), &what, &name, &n); err != nil {
			continue // cut off by the kill
		}
		line(what, name, n)
		if got++; got == lines {
			must(t, cmd.Process.Kill())
		}
	}
	_ = cmd.Wait() // killed
	if got < lines {
		t.Fatalf("the writer ended by itself after %d lines", got)
	}
}

func checkSurvivors(t *testing.T, j *store.Journal, seqs map[job.ID]int64, set string, epoch int64) {
	t.Helper()
	ctx := t.Context()
	states, err := j.Jobs(ctx)
	must(t, err)
	stored := map[job.ID]int64{}
	for _, st := range states {
		stored[st.ID] = st.Seq
		events, err := j.Events(ctx, st.ID)
		must(t, err)
		if int64(len(events)) != st.Seq {
			t.Errorf("job %s is at seq %d with %d events", st.ID, st.Seq, len(events))
		}
	}
	for id, seq := range seqs {
		if got, ok := stored[id]; !ok || got < seq {
			t.Errorf("job %s was acknowledged with seq %d, stored is %d (%t)", id, seq, got, ok)
		}
	}
	got, err := j.Set(ctx, "U")
	must(t, err)
	if got == nil || len(got.Disks) != 2 {
		t.Fatalf("set is %+v", got)
	}
	var e, n, ackedE, ackedN int64
	_, err = fmt.Sscanf(string(got.Job), "%d.%d", &e, &n)
	must(t, err)
	_, err = fmt.Sscanf(set, "%d.%d", &ackedE, &ackedN)
	must(t, err)
	if e < ackedE || e == ackedE && n < ackedN {
		t.Errorf("set of %s is stored, that of %s was acknowledged", got.Job, set)
	}
	next, err := j.NextEpoch(ctx, noon())
	must(t, err)
	if next <= epoch {
		t.Errorf("epoch %d follows %d", next, epoch)
	}
}

func TestEveryCommitIsFlushed(t *testing.T) {
	j := openJournal(t, t.TempDir())
	for name, want := range map[string]string{"synchronous": "2", "journal_mode": "wal", "foreign_keys": "1"} {
		got, err := j.Pragma(t.Context(), name)
		must(t, err)
		if got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

func TestADamagedJournalIsRefused(t *testing.T) {
	for name, damage := range map[string]func(data []byte) []byte{
		"not a database": func(data []byte) []byte {
			return append([]byte("garbage, garbage"), data[16:]...)
		},
		"pages overwritten":       func(data []byte) []byte { return overwrite(data, 4096, len(data)-4096) },
		"one page overwritten":    func(data []byte) []byte { return overwrite(data, len(data)/2/4096*4096, 4096) },
		"cut off in the middle":   func(data []byte) []byte { return data[:len(data)/2/4096*4096] },
		"schema page overwritten": func(data []byte) []byte { return overwrite(data, 100, 200) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fill(t, dir, 50)
			path := filepath.Join(dir, "journal.db")
			data, err := os.ReadFile(path)
			must(t, err)
			bad := damage(data)
			must(t, os.WriteFile(path, bad, 0o600))
			j, err := store.OpenJournal(t.Context(), dir)
			if err == nil {
				t.Fatal("the journal opened", j.Close())
			}
			wantKind(t, err, job.Corrupt)
			if job.NextOf(err) == "" || !strings.Contains(err.Error(), path) {
				t.Errorf("error %q does not name the file, or has no next step (%q)", err, job.NextOf(err))
			}
			if after, _ := os.ReadFile(path); string(after) != string(bad) {
				t.Error("the damaged file was changed")
			}
			must(t, os.WriteFile(path, data, 0o600)) // a backup
			if jobs, err := openJournal(t, dir).Jobs(t.Context()); err != nil || len(jobs) != 50 {
				t.Errorf("the restored file has %d jobs (%v)", len(jobs), err)
			}
		})
	}
}

func overwrite(data []byte, from, length int) []byte {
	out := append([]byte(nil), data...)
	for i := from; i < from+length; i++ {
		out[i] = 0xA5
	}
	return out
}

func fill(t *testing.T, dir string, jobs int) {
	t.Helper()
	j, err := store.OpenJournal(t.Context(), dir)
	must(t, err)
	for i := range jobs {
		st := state(job.ID(fmt.Sprint("job-", i)), fmt.Sprint("/vm-", i))
		st.Notes = []string{strings.Repeat("x", 1000)}
		must(t, j.Create(t.Context(), st, nil))
	}
	must(t, j.Close())
}

func TestAJobWithADamagedStateIsNamed(t *testing.T) {
	ctx, j := t.Context(), openJournal(t, t.TempDir())
	must(t, j.Create(ctx, state("a", "/web"), nil))
	must(t, j.Exec(ctx, `UPDATE jobs SET state = '{"id":'`))
	_, err := j.Jobs(ctx)
	wantKind(t, err, job.Corrupt)
	if !strings.Contains(err.Error(), `job "a"`) {
		t.Errorf("error %q does not name the job", err)
	}
}

func TestAJournalOfANewerProgramIsRefused(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	j, err := store.OpenJournal(ctx, dir)
	must(t, err)
	must(t, j.Exec(ctx, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)"))
	must(t, j.Close())
	_, err = store.OpenJournal(ctx, dir)
	wantKind(t, err, job.Corrupt)
	if !strings.Contains(err.Error(), "version 999") || job.NextOf(err) == "" {
		t.Errorf("error %q does not name the version, or has no next step", err)
	}
}

func TestAFullDiskIsReportedAndLosesNothing(t *testing.T) {
	ctx, j := t.Context(), openJournal(t, t.TempDir())
	must(t, j.Create(ctx, state("first", "/first"), nil))
	must(t, j.LimitGrowth(ctx))
	var err error
	accepted := 1
	for n := 0; err == nil && n < 10_000; n++ {
		st := state(job.ID(fmt.Sprint("job-", n)), fmt.Sprint("/vm-", n))
		st.Notes = []string{strings.Repeat("x", 4000)}
		if err = j.Create(ctx, st, nil); err == nil {
			accepted++
		}
	}
	wantKind(t, err, job.NoSpace)
	if job.NextOf(err) == "" {
		t.Errorf("error %q has no next step", err)
	}
	if jobs, err := j.Jobs(ctx); err != nil || len(jobs) != accepted {
		t.Errorf("%d jobs are stored (%v), %d were accepted", len(jobs), err, accepted)
	}
}

func TestAStateDirectoryThatCannotBeMadeIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	_, err := store.OpenJournal(t.Context(), filepath.Join(file, "state"))
	wantKind(t, err, job.Unavailable)
	if job.NextOf(err) == "" {
		t.Errorf("error %q has no next step", err)
	}
}

// TestWhatIsMadeIsDurable keeps, at each sync of a folder, which names it had then: these are there after a power loss.
func TestWhatIsMadeIsDurable(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "a", "b", "state")
	durable, files := map[string]bool{}, map[string]bool{}
	sync := func(f *os.File) error {
		info, err := f.Stat()
		must(t, err)
		if !info.IsDir() {
			files[f.Name()] = true
			return f.Sync()
		}
		entries, err := os.ReadDir(f.Name())
		must(t, err)
		for _, e := range entries {
			durable[filepath.Join(f.Name(), e.Name())] = true
		}
		return f.Sync()
	}
	j, err := store.OpenJournal(t.Context(), dir, store.WithSync(sync))
	must(t, err)
	must(t, j.Close())
	for _, want := range []string{
		filepath.Join(top, "a"), filepath.Join(top, "a", "b"), dir, filepath.Join(dir, "journal.db"),
		filepath.Join(dir, "journal.mark"),
	} {
		if !durable[want] {
			t.Errorf("%s is not durable", want)
		}
	}
	if !files[filepath.Join(dir, "journal.mark.new")] {
		t.Error("the content of journal.mark is not durable before it gets its name")
	}
	clear(durable)
	j, err = store.OpenJournal(t.Context(), dir, store.WithSync(sync))
	must(t, err)
	must(t, j.Close())
	if !durable[filepath.Join(dir, "journal.db")] {
		t.Error("a journal.db that a killed process made is not made durable by the next one")
	}
}

func TestAFileThatCannotBeReadIsNotAMissingOne(t *testing.T) {
	for _, name := range []string{"journal.db", "journal.db-journal", "journal.db-wal", "journal.mark"} {
		dir := t.TempDir()
		must(t, os.Symlink(name, filepath.Join(dir, name))) // leads to itself
		_, err := store.OpenJournal(t.Context(), dir)
		wantKind(t, err, job.Unavailable)
		if !errors.Is(err, unix.ELOOP) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnErrorOfAFolderIsNotTakenForAbsence(t *testing.T) {
	_, err := store.OpenJournal(t.Context(), t.TempDir(), store.WithSync(func(*os.File) error { return unix.EIO }))
	wantKind(t, err, job.Unavailable)
}

func TestOnlyTheOwnerCanReadTheState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "state %41?#")
	openJournal(t, dir)
	for _, name := range []string{".", "journal.db", "journal.db-wal", "journal.mark", "lock"} {
		info, err := os.Stat(filepath.Join(dir, name))
		must(t, err)
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
}
