package vsphere

// What the tests of this package need to see.
var (
	CheckPage     = checkPage
	DiskOf        = diskOf
	DisksOf       = disksOf
	FileAddresses = fileAddresses
)

const (
	OurText        = ourText
	ActivationMark = activationMark
	ActivationName = activationName
)
