package cert

import (
	"crypto/x509"
	"regexp"
	"time"

	"github.com/vmferry/vmferry/job"
)

// The roles that a certificate can have.
const (
	VMA = "vma" // the source side
	OMA = "oma" // the target side
)

var nodeName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// CheckName refuses a name that no certificate can have. Errors are of kind Invalid.
func CheckName(name string) error {
	if !nodeName.MatchString(name) {
		return job.Errorf("check node name", job.Invalid, "Use 1 to 63 letters, digits and -, as in vma-1",
			"%q is not a name for a node with a certificate", name)
	}
	return nil
}

// CheckRole refuses a role that no certificate can have. Errors are of kind Invalid.
func CheckRole(role string) error {
	if role != VMA && role != OMA {
		return job.Errorf("check role", job.Invalid, "Use vma or oma", "%q is not a role of a certificate", role)
	}
	return nil
}

// Identity is what a certificate says of its node.
type Identity struct {
	Name     string
	Role     string
	Serial   string // of the certificate, hexadecimal
	NotAfter time.Time
}

// identityOf reads the identity from a verified certificate. Errors are of kind Auth.
func identityOf(c *x509.Certificate) (Identity, error) {
	id := Identity{Serial: c.SerialNumber.Text(16), NotAfter: c.NotAfter}
	if len(c.DNSNames) != 1 || len(c.Subject.OrganizationalUnit) != 1 || len(c.IPAddresses)+len(c.URIs) > 0 {
		return id, job.Errorf("read certificate", job.Auth, "Make it with vmferry cert node",
			"the certificate is not that of one node")
	}
	id.Name, id.Role = c.DNSNames[0], c.Subject.OrganizationalUnit[0]
	if CheckName(id.Name) != nil || CheckRole(id.Role) != nil {
		return id, job.Errorf("read certificate", job.Auth, "Make it with vmferry cert node",
			"the certificate names node %q with role %q", id.Name, id.Role)
	}
	return id, nil
}
