package sim

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// serveSDK applies the faults of the connection, then calls the simulator's own handler.
func (v *VCenter) serveSDK(w http.ResponseWriter, r *http.Request) {
	if f, ok := v.faults.take(FaultStatus, "", ""); ok {
		http.Error(w, http.StatusText(f.Status), f.Status)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	call := callName(body)
	if call == "Login" {
		v.logins.Add(1)
	}
	if f, ok := v.faults.take(FaultCallSlow, call, ""); ok {
		v.pause(context.WithoutCancel(r.Context()), f.Delay) // a slow vCenter does not notice that the caller has left
	}
	if _, ok := v.faults.take(FaultAnswerLost, call, ""); ok {
		v.model.Service.ServeSDK(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler) // the server's way to break the connection
	}
	v.model.Service.ServeSDK(w, r)
}

// callName is the name of the first element in the body of a SOAP message.
func callName(message []byte) string {
	_, rest, ok := bytes.Cut(message, []byte("Body>"))
	if !ok {
		return ""
	}
	_, rest, _ = bytes.Cut(rest, []byte("<"))
	end := bytes.IndexAny(rest, " >/")
	if end < 0 {
		return ""
	}
	return string(rest[:end])
}

// authorized accepts a session's cookie, or the user's name and password.
func (v *VCenter) authorized(r *http.Request) bool {
	if user, password, ok := r.BasicAuth(); ok {
		return user == v.opt.User && password == v.opt.Password.Reveal()
	}
	cookie, err := r.Cookie(soap.SessionCookieName)
	if err != nil {
		return false
	}
	ctx := *v.model.Service.Context
	res, ok := v.model.Map().SessionManager().SessionIsActive(&ctx,
		&types.SessionIsActive{SessionID: cookie.Value, UserName: v.opt.User}).(*methods.SessionIsActiveBody)
	return ok && res.Res != nil && res.Res.Returnval
}

// requireLogin refuses a request that is not authorized, and says whether it is.
func (v *VCenter) requireLogin(w http.ResponseWriter, r *http.Request) bool {
	if v.authorized(r) {
		return true
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="vmferry rehearsal vCenter"`)
	http.Error(w, "log in first", http.StatusUnauthorized)
	return false
}

// serveFolder serves the flat files of disks, whole or in parts. The file that a running VM writes to is locked, so it
// is not served.
func (v *VCenter) serveFolder(w http.ResponseWriter, r *http.Request) {
	if !v.requireLogin(w, r) {
		return
	}
	if f, ok := v.faults.take(FaultFolderSlow, "", ""); ok {
		v.pause(r.Context(), f.Delay)
	}
	if f, ok := v.faults.take(FaultFolder, "", ""); ok {
		http.Error(w, http.StatusText(f.Status), f.Status)
		return
	}
	q := r.URL.Query()
	if strings.Trim(q.Get("dcPath"), "/") != datacenterName || q.Get("dsName") != datastoreName {
		http.NotFound(w, r)
		return
	}
	d := v.diskByFlat(strings.TrimPrefix(r.URL.Path, "/folder/"))
	if d == nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(d.base, 0, d.capacity.Load()))
}

// diskByFlat finds the disk whose flat file has this name, or nil if there is none or it is locked.
func (v *VCenter) diskByFlat(name string) *disk {
	for _, m := range v.machines {
		for _, d := range m.all() {
			if local, err := filepath.Rel(v.dir, d.flat); err != nil || filepath.ToSlash(local) != name {
				continue
			}
			d.mu.RLock()
			frozen := len(d.layers) > 0 || d.detached.Load()
			d.mu.RUnlock()
			if frozen || m.powerState() != types.VirtualMachinePowerStatePoweredOn {
				return d
			}
		}
	}
	return nil
}

func (m *machine) powerState() (state types.VirtualMachinePowerState) {
	ctx := *m.v.model.Service.Context
	ctx.WithLock(m.obj, func() { state = m.obj.Runtime.PowerState })
	return state
}

func faultName(f types.BaseMethodFault) string { return reflect.TypeOf(f).Elem().Name() }
