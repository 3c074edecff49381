// Package cert has the certificates of nodes: an authority, the certificate of each node, one-time tokens by which a
// node gets its certificate, the list of revoked certificates, and the TLS configurations of both ends of a link. It
// knows no session and no actor.
//
// The certificate of a node has the node's name as its only DNS name and its role (vma, oma) as organizational unit.
// All files of a node are in one folder:
//
//	ca.pem       certificates of the authority, the one in force first        0644
//	node.pem     the node's certificate                                       0644
//	node.key     its key                                                      0600
//	revoked.pem  revoked certificates, signed by the authority; may be away   0644
//
// and of the authority, only where certificates are made:
//
//	ca.key       its key                                                      0600
//	issued       one line for each certificate: serial number, name, end      0600
//	tokens/      one file for each token that was not used, named by its digest
package cert
