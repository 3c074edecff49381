package history

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"modernc.org/sqlite"

	"github.com/vmferry/vmferry/job"
)

const (
	readOp       = "read history"
	pageStandard = 100
	pageMost     = 1000
)

// Row is a row of replication_jobs, and what vmferry knows of it beside. A column that is NULL or that the table lacks
// is null or zero.
type Row struct {
	ID               job.ID     `json:"id"`
	Node             string     `json:"node"`
	SourceVMID       string     `json:"source_vm_id"`
	SourceVMName     string     `json:"source_vm_name"`
	SourceVMPath     string     `json:"source_vm_path"`
	VCenterHost      string     `json:"vcenter_host"`
	Datacenter       string     `json:"datacenter"`
	ReplicationType  string     `json:"replication_type"`
	Status           job.Status `json:"status"`
	StateSince       *time.Time `json:"state_since"` // since when it is unreachable or lost
	StateReason      string     `json:"state_reason"`
	ProgressPercent  float64    `json:"progress_percent"`
	CurrentOperation string     `json:"current_operation"`
	BytesTransferred int64      `json:"bytes_transferred"` // over all rounds
	BytesSkipped     int64      `json:"bytes_skipped"`
	TotalBytes       int64      `json:"total_bytes"`
	SpeedBPS         int64      `json:"transfer_speed_bps"`
	ErrorMessage     *string    `json:"error_message"`
	ChangeID         *string    `json:"change_id"`
	PreviousChangeID *string    `json:"previous_change_id"`
	SnapshotID       *string    `json:"snapshot_id"`
	TargetDevice     *string    `json:"target_device"`
	SyncType         *string    `json:"vma_sync_type"`
	Phase            *string    `json:"vma_current_phase"`
	ThroughputMBPS   *float64   `json:"vma_throughput_mbps"`
	ETASeconds       *int64     `json:"vma_eta_seconds"`
	LastPollAt       *time.Time `json:"vma_last_poll_at"`
	ErrorClass       *string    `json:"vma_error_classification"`
	ErrorDetails     *string    `json:"vma_error_details"`
	CreatedAt        *time.Time `json:"created_at"`
	UpdatedAt        *time.Time `json:"updated_at"`
	StartedAt        *time.Time `json:"started_at"`
	CompletedAt      *time.Time `json:"completed_at"`

	created rawText // CreatedAt as the table has it: SQLite sorts by it
}

// rawText is a column as the database writes it, whatever its type is.
type rawText string

// DiskRow is a row of vm_disks.
type DiskRow struct {
	DiskID           string  `json:"disk_id"`
	VMDKPath         string  `json:"vmdk_path"`
	Datastore        string  `json:"datastore"`
	Label            string  `json:"label"`
	ProvisioningType string  `json:"provisioning_type"`
	UnitNumber       int64   `json:"unit_number"`
	SizeGB           int64   `json:"size_gb"`
	CapacityBytes    int64   `json:"capacity_bytes"`
	ChangeID         string  `json:"disk_change_id"`
	SyncStatus       string  `json:"sync_status"`
	SyncPercent      float64 `json:"sync_progress_percent"`
	BytesSynced      int64   `json:"bytes_synced"`
}

// Filter selects rows.
type Filter struct {
	Status []string  // any of these; nil: all
	Node   string    // "": all
	VM     string    // part of its name or path, in capital or small letters; "": all
	From   time.Time // created then or later; zero: all
	To     time.Time // created before then; zero: all
	Limit  int       // 1 to 1000; 0: 100
	Cursor string    // Page.Next of the page before; "": the first page
}

// Page is a part of the rows, the newest first.
type Page struct {
	Rows []Row
	Next string // Filter.Cursor of the next page; "" if this is the last one
}

// field is a column that is read: where it comes from and where it goes.
type field struct {
	column string
	to     any
}

func (r *Row) fields() []field {
	return []field{
		{"j.id", &r.ID},
		{"m.node", &r.Node},
		{"j.source_vm_id", &r.SourceVMID},
		{"j.source_vm_name", &r.SourceVMName},
		{"j.source_vm_path", &r.SourceVMPath},
		{"j.vcenter_host", &r.VCenterHost},
		{"j.datacenter", &r.Datacenter},
		{"j.replication_type", &r.ReplicationType},
		{"j.status", &r.Status},
		{"m.state_since", &r.StateSince},
		{"m.state_reason", &r.StateReason},
		{"j.progress_percent", &r.ProgressPercent},
		{"j.current_operation", &r.CurrentOperation},
		{"j.bytes_transferred", &r.BytesTransferred},
		{"m.bytes_skipped", &r.BytesSkipped},
		{"j.total_bytes", &r.TotalBytes},
		{"j.transfer_speed_bps", &r.SpeedBPS},
		{"j.error_message", &r.ErrorMessage},
		{"j.change_id", &r.ChangeID},
		{"j.previous_change_id", &r.PreviousChangeID},
		{"j.snapshot_id", &r.SnapshotID},
		{"j.target_device", &r.TargetDevice},
		{"j.vma_sync_type", &r.SyncType},
		{"j.vma_current_phase", &r.Phase},
		{"j.vma_throughput_mbps", &r.ThroughputMBPS},
		{"j.vma_eta_seconds", &r.ETASeconds},
		{"j.vma_last_poll_at", &r.LastPollAt},
		{"j.vma_error_classification", &r.ErrorClass},
		{"j.vma_error_details", &r.ErrorDetails},
		{"j.created_at", &r.CreatedAt},
		{"j.created_at", &r.created},
		{"j.updated_at", &r.UpdatedAt},
		{"j.started_at", &r.StartedAt},
		{"j.completed_at", &r.CompletedAt},
	}
}

func (d *DiskRow) fields() []field {
	return []field{
		{"d.disk_id", &d.DiskID},
		{"d.vmdk_path", &d.VMDKPath},
		{"d.datastore", &d.Datastore},
		{"d.label", &d.Label},
		{"d.provisioning_type", &d.ProvisioningType},
		{"d.unit_number", &d.UnitNumber},
		{"d.size_gb", &d.SizeGB},
		{"d.capacity_bytes", &d.CapacityBytes},
		{"d.disk_change_id", &d.ChangeID},
		{"d.sync_status", &d.SyncStatus},
		{"d.sync_progress_percent", &d.SyncPercent},
		{"d.bytes_synced", &d.BytesSynced},
	}
}

// Page reads one page of rows, also of rows that the older chain has written, but for rows without a created_at. Limit
// and Cursor that are not allowed fail with Invalid; From and To fail with Unsupported where the table has no
// created_at. Without a filter, or with one by time or node, the database reads about three rows for each that fits;
// rows that do not fit are read, too. Where the table has no index over created_at, it reads all rows for each page.
func (h *DB) Page(ctx context.Context, f Filter) (Page, error) {
	if f.Limit == 0 {
		f.Limit = pageStandard
	}
	if f.Limit < 1 || f.Limit > pageMost {
		return Page{}, job.Errorf(readOp, job.Invalid, "Use 1 to 1000", "limit is %d", f.Limit)
	}
	s, err := h.session.get(ctx)
	if err != nil {
		return Page{}, h.wrap(ctx, readOp, err)
	}
	where, args, err := f.where(s.tables[jobsTable])
	if err != nil {
		return Page{}, err
	}
	order := " ORDER BY j.id DESC"
	if s.tables[jobsTable].has("created_at") {
		order = " ORDER BY j.created_at DESC, j.id DESC"
	}
	rows, err := h.rows(ctx, s, f.Node != "", where+order+" LIMIT ?", append(args, f.Limit+1)...)
	if err != nil {
		return Page{}, h.lookAgain(ctx, s, err)
	}
	p := Page{Rows: rows}
	if len(rows) > f.Limit {
		p.Rows = rows[:f.Limit]
		p.Next = cursorOf(p.Rows[f.Limit-1])
	}
	return p, nil
}

// Row reads the row of a job; NotFound if there is none.
func (h *DB) Row(ctx context.Context, id job.ID) (Row, error) {
	s, err := h.session.get(ctx)
	if err != nil {
		return Row{}, h.wrap(ctx, readOp, err)
	}
	rows, err := h.rows(ctx, s, false, " WHERE "+same("j.id"), string(id), string(id))
	if err != nil {
		return Row{}, h.lookAgain(ctx, s, err)
	}
	if len(rows) == 0 {
		return Row{}, job.Errorf(readOp, job.NotFound, "", "the history has no job %s", id)
	}
	return rows[0], nil
}

// Disks reads the rows of vm_disks that tell of a job: none if a later job of the VM has them.
func (h *DB) Disks(ctx context.Context, id job.ID) ([]DiskRow, error) {
	s, err := h.session.get(ctx)
	if err != nil {
		return nil, h.wrap(ctx, readOp, err)
	}
	t := s.tables[disksTable]
	if !t.has("job_id") || !t.has("disk_id") {
		return nil, nil
	}
	var all []DiskRow
	err = query(ctx, s.read, "vm_disks d", " WHERE "+same("d.job_id")+" ORDER BY d.disk_id",
		[]any{string(id), string(id)}, func(rows *sql.Rows) error {
			var d DiskRow
			err := scan(rows, present(s, d.fields()))
			all = append(all, d)
			return err
		}, present(s, new(DiskRow).fields()))
	if err != nil {
		return nil, h.lookAgain(ctx, s, err)
	}
	return all, nil
}

// lookAgain is for errors of reads: a table may be another one now. A page that takes too long says nothing of the
// tables, and the writer keeps its session.
func (h *DB) lookAgain(ctx context.Context, s *session, err error) error {
	_, isMariaDB := errors.AsType[*mysql.MySQLError](err)
	_, isSQLite := errors.AsType[*sqlite.Error](err)
	if ctx.Err() == nil && (isMariaDB || isSQLite) {
		h.session.drop(s)
	}
	return h.wrap(ctx, readOp, err)
}

// rows reads rows with their marks. A condition that speaks of the marks needs the join; without one the marks are read
// after the rows, because MariaDB sorts a join as a whole before it takes the first rows of it.
func (h *DB) rows(ctx context.Context, s *session, join bool, rest string, args ...any) ([]Row, error) {
	all := []Row{}
	if !s.tables[jobsTable].has("id") {
		return all, nil
	}
	from, aliases := "replication_jobs j", "j"
	if join {
		from, aliases = "replication_jobs j JOIN vmferry_jobs m ON m.id = j.id", "jm"
	}
	fields := func(r *Row) []field {
		return slices.DeleteFunc(present(s, r.fields()), func(f field) bool {
			return !strings.Contains(aliases, f.column[:1])
		})
	}
	err := query(ctx, s.read, from, rest, args, func(rows *sql.Rows) error {
		var r Row
		err := scan(rows, fields(&r))
		all = append(all, r)
		return err
	}, fields(new(Row)))
	if err != nil || join {
		return all, err
	}
	return all, marked(ctx, s, all)
}

// marked fills in what vmferry knows of the rows.
func marked(ctx context.Context, s *session, rows []Row) error {
	if len(rows) == 0 {
		return nil
	}
	marks := map[job.ID]Row{}
	ids := make([]any, len(rows))
	for i, r := range rows {
		ids[i] = string(r.ID)
	}
	fields := func(r *Row) []field {
		return []field{
			{"m.id", &r.ID},
			{"m.node", &r.Node},
			{"m.state_since", &r.StateSince},
			{"m.state_reason", &r.StateReason},
			{"m.bytes_skipped", &r.BytesSkipped},
		}
	}
	where := " WHERE m.id IN (" + strings.TrimSuffix(strings.Repeat("?, ", len(ids)), ", ") + ")"
	err := query(ctx, s.read, "vmferry_jobs m", where, ids, func(all *sql.Rows) error {
		var r Row
		err := scan(all, fields(&r))
		marks[r.ID] = r
		return err
	}, fields(new(Row)))
	for i, r := range rows {
		m := marks[r.ID]
		rows[i].Node, rows[i].StateSince, rows[i].StateReason, rows[i].BytesSkipped =
			m.Node, m.StateSince, m.StateReason, m.BytesSkipped
	}
	return err
}

// where is the condition of a filter, and its arguments.
func (f Filter) where(t *table) (string, []any, error) {
	var parts []string
	var args []any
	add := func(part string, more ...any) {
		parts, args = append(parts, part), append(args, more...)
	}
	if len(f.Status) > 0 {
		marks := strings.TrimSuffix(strings.Repeat("?, ", len(f.Status)), ", ")
		parts = append(parts, "j.status IN ("+marks+")")
		for _, s := range f.Status {
			args = append(args, s)
		}
	}
	if f.Node != "" {
		add("m.node = ?", f.Node)
	}
	if f.VM != "" {
		part, more := f.ofVM(t)
		add(part, more...)
	}
	if err := f.created(t, add); err != nil {
		return "", nil, err
	}
	if f.Cursor == "" && t.has("created_at") {
		add("j.created_at <= ?", t.columns["created_at"].latest()) // MariaDB may else sort the whole table
	}
	if f.Cursor != "" {
		at, id, err := readCursor(f.Cursor, t.has("created_at"))
		switch {
		case err != nil:
			return "", nil, err
		case t.has("created_at"): // (a, b) < (?, ?) is no range for MariaDB's optimizer
			add("(j.created_at <= ? AND (j.created_at < ? OR j.id < ?))", at, at, id)
		default:
			add("j.id < ?", id)
		}
	}
	if len(parts) == 0 {
		return "", nil, nil
	}
	return " WHERE " + strings.Join(parts, " AND "), args, nil
}

// ofVM is the condition that a row is of a VM, and its arguments.
func (f Filter) ofVM(t *table) (part string, args []any) {
	if strings.ContainsRune(f.VM, 0) {
		return "1 = 0", nil // SQLite ends a pattern there, and no name has it
	}
	var parts []string
	pattern := "%" + strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(f.VM) + "%"
	for _, name := range []string{"source_vm_name", "source_vm_path"} {
		if t.has(name) {
			parts, args = append(parts, "LOWER(j."+name+") LIKE LOWER(?) ESCAPE '!'"), append(args, pattern)
		}
	}
	if len(parts) == 0 {
		return "1 = 0", nil
	}
	return "(" + strings.Join(parts, " OR ") + ")", args
}

// created adds the conditions for the time at which a job was created.
func (f Filter) created(t *table, add func(part string, args ...any)) error {
	if f.From.IsZero() && f.To.IsZero() {
		return nil
	}
	if !t.has("created_at") {
		return job.Errorf(readOp, job.Unsupported, "Leave the time out, or set sql.alter to add the column",
			"the table has no created_at")
	}
	if !f.From.IsZero() {
		add("j.created_at >= ?", f.From.UTC().Format(timeForm))
	}
	if !f.To.IsZero() {
		add("j.created_at < ?", f.To.UTC().Format(timeForm))
	}
	return nil
}

func cursorOf(r Row) string {
	return base64.RawURLEncoding.EncodeToString([]byte(string(r.created) + "|" + string(r.ID)))
}

// readCursor takes a cursor apart. at is "" where the table has no times; else it is what a row has, which other
// programs write in other forms than we do.
func readCursor(s string, timed bool) (at, id string, err error) {
	text, err := base64.RawURLEncoding.DecodeString(s)
	at, id, ok := strings.Cut(string(text), "|")
	if err != nil || !ok || id == "" || timed != timeLike.MatchString(at) {
		return "", "", job.Errorf(readOp, job.Invalid, "Take the cursor of the page before, or none",
			"the cursor is not one of this list")
	}
	return at, id, nil
}

var timeLike = regexp.MustCompile(`^[0-9][-+.:0-9A-Z ]{0,39}$`)

// present are the fields whose columns exist.
func present(s *session, all []field) []field {
	var there []field
	for _, f := range all {
		alias, column, _ := strings.Cut(f.column, ".")
		name := map[string]string{"j": jobsTable, "m": marksTable, "d": disksTable}[alias]
		if s.tables[name].has(column) {
			there = append(there, f)
		}
	}
	return there
}

func query(ctx context.Context, db *sql.DB, from, rest string, args []any, each func(*sql.Rows) error,
	fields []field,
) (err error) {
	columns := make([]string, len(fields))
	for i, f := range fields {
		columns[i] = f.column
		if _, raw := f.to.(*rawText); raw {
			columns[i] = "CAST(" + f.column + " AS CHAR)"
		}
	}
	text := "SELECT " + strings.Join(columns, ", ") + " FROM " + from + rest //nolint:gosec // texts of this package
	rows, err := db.QueryContext(ctx, text, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
