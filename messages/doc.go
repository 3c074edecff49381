// Package messages holds what actors say to each other, one file for each receiver. They are plain values: no pointer
// that the sender keeps, no function, no client. What an actor says to itself stays with the actor.
package messages
