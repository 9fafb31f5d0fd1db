package fault

import "errors"

// Point is a place at which a fault can be made to happen.
type Point struct {
	Name    string `json:"name"`
	Meaning string `json:"meaning"` // when the process comes there, in a few words
}

// ErrTwice is what the action "twice" makes At return: what comes in at this point is to be taken in a second
// time. It is for points that say so; to any other it is an error like every other.
var ErrTwice = errors.New("taken in twice")
