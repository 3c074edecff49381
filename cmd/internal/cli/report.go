package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

const reportHelp = `Writes the report of a job: what was asked for, its rounds, disks, phases and events. --format html
is one page without scripts that asks for no other file, csv a table for spreadsheets, json the same as data.

JOB is the id of a job, or its VM. An unknown job ends with exit code 10.`

const reportExample = `  vmferry report web > web.html
  vmferry report job-20250925-134230.513-8034ee --format csv --file web.csv`

func newReportCommand(s Streams) *cobra.Command {
	form, file := string(rest.ReportHTML), ""
	c := &cobra.Command{
		Use: "report JOB", Short: "Write the report of a job", Long: reportHelp, Example: reportExample,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeJobs(),
	}
	at := serverFlag(c, s)
	c.Flags().StringVar(&form, "format", form, "html, csv or json")
	c.Flags().StringVar(&file, "file", "", "write this file instead of stdout; it must not exist")
	c.RunE = func(c *cobra.Command, args []string) error {
		switch rest.ReportForm(form) {
		case rest.ReportHTML, rest.ReportCSV, rest.ReportJSON:
		default:
			return Usage("--format is html, csv or json, not %q", form)
		}
		cl, err := at.client()
		if err != nil {
			return err
		}
		r, err := find(c.Context(), cl, args[0], unfinished)
		if err != nil {
			return err
		}
		b, err := cl.Report(c.Context(), r.JobID, rest.ReportForm(form))
		if err != nil {
			return err
		}
		if file == "" {
			_, err = s.Out.Write(b)
			return err
		}
		return writeNew(file, b)
	}
	return c
}

// writeNew writes a file that must not exist yet.
func writeNew(path string, b []byte) error {
	const next = "Name another file with --file"
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // a report is no secret
	if err != nil {
		return job.SystemError("write the report", next, err)
	}
	_, err = f.Write(b)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return job.SystemError("write the report", next, fmt.Errorf("%s: %w", path, err))
	}
	return nil
}
