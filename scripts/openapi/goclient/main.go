// Command goclient lists the jobs of a daemon with a client that oapi-codegen made of its description: goclient URL
package main

import (
	"context"
	"fmt"
	"os"

	"goclient/api"
)

func main() {
	if err := list(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func list(ctx context.Context, url string) error {
	c, err := api.NewClientWithResponses(url)
	if err != nil {
		return err
	}
	limit := int64(500)
	jobs, err := c.ListJobsWithResponse(ctx, &api.ListJobsParams{Limit: &limit})
	if err != nil {
		return err
	}
	if jobs.JSON200 == nil {
		return fmt.Errorf("the list is answered with %s", jobs.Status())
	}
	for _, j := range *jobs.JSON200 {
		fmt.Println(j.JobId, j.Status, j.OverallPercent)
	}
	made, err := c.SubmitJobWithResponse(ctx, nil, api.JobRequest{Vm: "/DC0/vm/web"})
	if err != nil {
		return err
	}
	if made.ApplicationproblemJSON4XX == nil {
		return fmt.Errorf("a job without a vCenter is answered with %s", made.Status())
	}
	fmt.Println("refused:", made.ApplicationproblemJSON4XX.Code)
	return nil
}
