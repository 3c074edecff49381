package nbd_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/vmferry/vmferry/nbd"
)

func TestSmoke(t *testing.T) {
	src, dst := os.Getenv("SRC"), os.Getenv("DST")
	if src == "" {
		t.Skip()
	}
	var m nbd.Meter
	began := time.Now()
	r, err := nbd.Copy(t.Context(), nbd.Task{Source: src, Target: dst}, &m)
	fmt.Printf("%+v %v %v\n", r, time.Since(began), err)
	if err != nil {
		t.Error(err)
	}
}
