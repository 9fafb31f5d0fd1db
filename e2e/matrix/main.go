package main

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/e2e/harness"
)

const insideEnv = "REQUORUM_MATRIX_INSIDE" // set in the process that runs in namespaces of its own

// settings are what the command line says.
type settings struct {
	seed     uint64
	full     bool
	cell     string
	clusters int
	out      string
	doc      string
}

func main() {
	s := settings{}
	flag.Uint64Var(&s.seed, "seed", 0, "`NUMBER` that chooses places and nodes; 0 for another one each time")
	flag.BoolVar(&s.full, "full", false, "every place in every step, with every node")
	flag.StringVar(&s.cell, "cell", "", "repeat only this `CELL`, as the table gives it")
	flag.IntVar(&s.clusters, "clusters", 4, "`NUMBER` of clusters at a time")
	flag.StringVar(&s.out, "out", "dist", "`DIR` for the tables")
	flag.StringVar(&s.doc, "doc", "", "`FILE` of the documentation to put the counts into")
	flag.Parse()
	if os.Getenv(insideEnv) == "" {
		code, err := inside()
		if err == nil {
			os.Exit(code)
		}
		fmt.Fprintln(os.Stdout, "fault-matrix: no namespaces here:", err)
	}
	if s.seed == 0 {
		s.seed = 1 + rand.Uint64N(1_000_000) //nolint:gosec // it chooses places, no key
	}
	if err := run(s); err != nil {
		fmt.Fprintln(os.Stderr, "fault-matrix:", err)
		os.Exit(1)
	}
}

// inside runs this program again, in a network and a mount namespace that end with it.
func inside() (code int, err error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("that needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return 0, err
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(self, os.Args[1:]...) //nolint:gosec // this very program, as it was called
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	signal.Ignore(os.Interrupt) // it gets its own
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return 1, nil //nolint:nilerr // it has run, and has said what is wrong
	}
	return cmd.ProcessState.ExitCode(), nil
}

// matrix is a run of it.
type matrix struct {
	settings
	namespaces bool
	places     map[row][]place
	report     report

	mu      sync.Mutex
	queue   []cell
	number  int  // clusters made so far
	stopped bool // nothing more is begun
}

func run(s settings) error {
	m := &matrix{settings: s, namespaces: os.Getenv(insideEnv) != "", report: report{Seed: s.seed, Level: "ci", Began: time.Now()}}
	if s.full {
		m.report.Level = "full"
	}
	if m.namespaces {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil { // what is mounted here stays here
			return fmt.Errorf("keep mounts to this process: %w", err)
		}
	} else {
		m.report.Skipped = append(m.report.Skipped, "network and disk, which need namespaces and mounts of their own")
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		signal.Stop(interrupted) // another one ends this at once
		m.drop()
	}()
	first, err := m.prepare()
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "fault-matrix: seed %d, %d runs on %d clusters at a time\n", s.seed, len(m.queue), s.clusters)
	m.work(first)
	m.report.Seconds = time.Since(m.report.Began).Seconds()
	return m.finish()
}

// prepare starts the first cluster, finds out where faults can happen, and fills the queue.
func (m *matrix) prepare() (*bed, error) {
	_, faults := harness.Binaries(&recorder{})
	points, err := declared(faults)
	if err != nil {
		return nil, err
	}
	b, err := m.newBed()
	if err != nil {
		return nil, err
	}
	m.report.Points = len(points)
	if m.cell != "" {
		c, err := parseCell(m.cell)
		m.queue = []cell{c}
		return b, err
	}
	b.life.during(func() { m.places = discover(b, points) })
	if b.life.Failed() {
		b.life.finish()
		return nil, fmt.Errorf("without faults: %v", b.life.failures)
	}
	m.report.Idle = idle(points, m.places)
	if m.full {
		m.queue = everything(m.places, b.NodeNames(), m.possible)
	} else {
		m.queue = choose(m.seed, m.places, b.NodeNames(), m.possible)
	}
	order := rand.New(rand.NewPCG(m.seed, 0)) //nolint:gosec // the same each time
	order.Shuffle(len(m.queue), func(i, j int) { m.queue[i], m.queue[j] = m.queue[j], m.queue[i] })
	return b, nil
}

// idle are the points of the plans that nothing has passed.
func idle(points []string, places map[row][]place) []string {
	return slices.DeleteFunc(slices.Clone(points), func(name string) bool {
		for _, all := range places {
			if slices.ContainsFunc(all, func(p place) bool { return p.point == name }) {
				return true
			}
		}
		return false
	})
}

func (m *matrix) possible(kind string) bool {
	return m.namespaces || kind != cutNetwork && kind != fillDisk
}

func (m *matrix) newBed() (*bed, error) {
	m.mu.Lock()
	m.number++
	number := m.number
	m.mu.Unlock()
	return newBed(number, m.namespaces)
}

// work runs what is queued on several clusters.
func (m *matrix) work(first *bed) {
	var all sync.WaitGroup
	for i := range m.clusters {
		b := first
		if i > 0 {
			b = nil
		}
		all.Go(func() { m.worker(b) })
	}
	all.Wait()
}

// worker runs one cell after the other, on another cluster after one that failed.
func (m *matrix) worker(b *bed) {
	for {
		c, ok := m.next()
		if !ok {
			break
		}
		if b == nil {
			var err error
			if b, err = m.newBed(); err != nil {
				m.add(outcome{Step: c.row.String(), Fault: c.kind, Cell: c.String(), Failures: []string{err.Error()}})
				continue
			}
		}
		o := b.reaching(c)
		m.add(o)
		if len(o.Failures) > 0 {
			m.close(b, o)
			b = nil
		}
	}
	if b != nil {
		m.close(b, outcome{})
	}
}

// close ends a cluster, and keeps the logs of one on which a cell failed.
func (m *matrix) close(b *bed, o outcome) {
	if len(o.Failures) > 0 {
		b.life.Error("a cell failed on this cluster") // so that it shows its logs
	}
	b.life.finish()
	if len(o.Failures) > 0 {
		name := strings.NewReplacer("/", "-", " ", "-", ",", "_").Replace(o.Cell) + ".log"
		text := o.Cell + "\n" + strings.Join(o.Failures, "\n") + "\n" + strings.Join(b.life.logs, "\n")
		dir := filepath.Join(m.out, "fault-matrix-logs")
		if err := errors.Join(os.MkdirAll(dir, 0o750), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)); err != nil {
			fmt.Fprintln(os.Stderr, "fault-matrix:", err)
		}
		return
	}
	if b.life.Failed() {
		m.add(outcome{Step: "end", Fault: "none", Cell: b.life.name, Failures: b.life.failures})
	}
}

func (m *matrix) next() (cell, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.queue) == 0 || m.stopped {
		return cell{}, false
	}
	c := m.queue[0]
	m.queue = m.queue[1:]
	return c, true
}

func (m *matrix) drop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopped = true
}

func (m *matrix) add(o outcome) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.report.Cells = append(m.report.Cells, o)
	word := "ok"
	if len(o.Failures) > 0 {
		word = "FAILED"
	}
	if o.Missed {
		word += ", place not reached"
	}
	fmt.Fprintf(os.Stdout, "%4d left  %-9s %5.1f s  %s  %s\n", len(m.queue), o.Ended, o.Seconds, word, o.Cell)
	for _, f := range o.Failures {
		fmt.Fprintln(os.Stdout, "           ", strings.ReplaceAll(f, "\n", "\n            "))
	}
	if len(o.Failures) > 0 {
		fmt.Fprintln(os.Stdout, "            again:", again(o))
	}
}

func (m *matrix) finish() error {
	if err := m.report.write(m.out); err != nil {
		return err
	}
	if m.doc != "" {
		if err := m.report.document(m.doc); err != nil {
			return err
		}
	}
	fmt.Fprint(os.Stdout, m.report.summary())
	if len(m.queue) > 0 {
		return fmt.Errorf("interrupted with %d runs to go", len(m.queue))
	}
	if n := len(m.report.failed()); n > 0 {
		return fmt.Errorf("%d runs failed; see %s", n, filepath.Join(m.out, "fault-matrix.md"))
	}
	return nil
}
