package vsphere

// What tests of this package's rules need to see.
var (
	CheckPage     = checkPage
	DiskOf        = diskOf
	DisksOf       = disksOf
	FileAddresses = fileAddresses
)

const (
	OwnerMark      = ownerMark
	ActivationName = activationName
)
