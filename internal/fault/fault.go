// Package fault holds named fault points: places in the code where a test can make the process fail, hang, wait
// or die. They exist only in binaries built with the tag faultinject; in every other build [At] returns nil and
// is inlined away.
//
// A package declares its points once and passes them where the fault may happen:
//
//	var beforeStage = fault.Declare("agent/stage/before", "before staging")
//
//	if err := fault.At(ctx, beforeStage); err != nil {
//		return err
//	}
//
// A process looks for armed points in the directory that [DirEnv] names. A point is armed by a file called as
// [FileName] says; with a node's name in it, only the process whose [NodeEnv] is that name takes it, so one
// directory serves a whole cluster. The file's content is
//
//	ACTION ["once"] [ARGUMENT]
//
// with one of the actions
//
//	error MESSAGE    At returns an error with that message, an *[InjectedError]
//	enospc           At returns an error that wraps syscall.ENOSPC
//	kill             the process sends itself SIGKILL
//	hang             At blocks until its context ends or the file is removed
//	delay DURATION   At waits that long, in the form that time.ParseDuration reads
//	twice            At returns [ErrTwice]: what comes in there is taken in a second time
//
// With "once" the file is gone as soon as one process has taken it, and no other takes it; a hang then lasts
// until the trace file is removed. Before any action takes effect, one line of JSON, a [Firing], is appended to
// the trace file, which is named as the armed file with [FiredSuffix]. Package faulttest arms points and waits
// for them.
package fault

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

const (
	// DirEnv names the environment variable with the directory of armed points. Unset: nothing is armed.
	DirEnv = "REQUORUM_FAULTS_DIR"
	// NodeEnv names the environment variable with the node that this process stands for.
	NodeEnv = "REQUORUM_FAULT_NODE"
	// FiredSuffix ends the name of a trace file.
	FiredSuffix = ".fired"
)

// Firing is one line of a trace file: an action that took effect.
type Firing struct {
	Point  string    `json:"point"`
	Node   string    `json:"node,omitempty"` // as NodeEnv said, if it did
	Task   string    `json:"task,omitempty"` // the ID of the task that was being done, if one was
	Action string    `json:"action"`
	PID    int       `json:"pid"`
	Time   time.Time `json:"time"`
}

// InjectedError is what the action "error" makes At return.
type InjectedError struct {
	Point   string
	Message string
}

// Error says the message and the point.
func (e *InjectedError) Error() string {
	return fmt.Sprintf("%s (injected at %s)", e.Message, e.Point)
}

// FileName is the name of the file that arms point on node, or in every process if node is empty: the point's
// slashes become "__", and the node follows after "@".
func FileName(point, node string) string {
	name := strings.ReplaceAll(point, "/", "__")
	if node != "" {
		name += "@" + node
	}
	return name
}

// ReadFirings reads the trace file at path, oldest line first. A last line that is not complete yet is left out.
// The error is fs.ErrNotExist as long as nothing fired.
func ReadFirings(path string) ([]Firing, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	data = data[:bytes.LastIndexByte(data, '\n')+1]
	var firings []Firing
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		var f Firing
		if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
			return nil, fmt.Errorf("read trace %s: %w", path, err)
		}
		firings = append(firings, f)
	}
	return firings, nil
}
