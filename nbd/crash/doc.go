// Package crash holds no code, only tests of the copy engine as a whole program. They run the real vmferry copy against
// real servers, kill either side at chosen and at random moments, and compare every byte. They run by make crash only.
package crash
