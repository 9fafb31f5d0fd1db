package live

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/output"
)

const (
	barWidth  = 20
	nameWidth = 11 // of a step, at least
	maxWidth  = 100
)

// style is an ANSI colour or brightness; empty for none.
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
)

type span struct {
	text  string
	style style
}

// line is a row of the screen, cut at the terminal's width when it is rendered.
type line []span

func (l line) width() int {
	n := 0
	for _, s := range l {
		n += utf8.RuneCountInString(s.text)
	}
	return n
}

// render returns the line with its colours, and its width in columns.
func (l line) render(columns int, color bool) (string, int) {
	var b strings.Builder
	left := columns - 1 // some terminals wrap after the last column
	for _, s := range l {
		text := []rune(s.text)
		if len(text) > left {
			text = text[:max(0, left)]
		}
		left -= len(text)
		if color && s.style != plain && len(text) > 0 {
			fmt.Fprintf(&b, "\x1b[%sm%s\x1b[0m", s.style, string(text))
		} else {
			b.WriteString(string(text))
		}
	}
	return strings.TrimRight(b.String(), " "), columns - 1 - left
}

// right adds text at the right edge of the screen.
func (l line) right(text string, columns int) line {
	gap := min(columns, maxWidth) - 1 - l.width() - utf8.RuneCountInString(text)
	return append(l, span{strings.Repeat(" ", max(2, gap)), plain}, span{text, dim})
}

// frame is the whole picture, in at most rows-1 lines.
func (s *Screen) frame(columns, rows int) []line {
	op := s.op
	lines := []line{
		{{output.Clean(Title(op)), bold}},
		line{{Phase(op.GetPhase()), plain}, {"  " + s.elapsed(), dim}}.right("operation "+output.Clean(op.GetId()), columns),
	}
	var body []line
	for _, step := range op.GetSteps() {
		body = append(body, s.step(step, columns)...)
	}
	foot := append(s.pending(columns), s.notices()...)
	if room := rows - 1 - len(lines) - len(foot); rows > 0 && len(body) > room {
		// What is over has to make room for what goes on.
		cut := len(body) - max(1, room) + 1
		body = append([]line{{{fmt.Sprintf("  %s %d more lines", s.symbol("…", "..."), cut), dim}}}, body[cut:]...)
	}
	return append(append(lines, body...), foot...)
}

func (s *Screen) elapsed() string {
	if s.op.GetCreated() == nil {
		return ""
	}
	end := s.now()
	if s.op.GetEnded() != nil {
		end = s.op.GetEnded().AsTime()
	}
	return output.Clock(end.Sub(s.op.GetCreated().AsTime()))
}

// step is one line for a step that is over, and a block with a line for each node for one that goes on or failed.
func (s *Screen) step(step *requorumv1.Step, columns int) []line {
	mark, st := s.mark(step.GetState())
	head := line{{"  " + mark + " ", st}, {pad(step.GetName(), nameWidth), plain}}
	switch step.GetState() {
	case requorumv1.StepState_STEP_STATE_PENDING, requorumv1.StepState_STEP_STATE_UNSPECIFIED:
		return nil
	case requorumv1.StepState_STEP_STATE_DONE, requorumv1.StepState_STEP_STATE_UNDONE:
		return []line{append(head, span{" " + fitted(s.summary(step), columns-30), dim}).right(s.took(step), columns)}
	}
	if step.GetAttempt() > 1 {
		head = append(head, span{fmt.Sprintf(" attempt %d", step.GetAttempt()), yellow})
	}
	block := []line{head.right(s.took(step), columns)}
	width := 0
	for _, task := range byNode(step) {
		width = max(width, utf8.RuneCountInString(where(task)))
	}
	for _, task := range byNode(step) {
		block = append(block, s.task(task, width))
	}
	return block
}

// byNode returns a step's tasks in an order that stays, whatever order they come in.
func byNode(step *requorumv1.Step) []*requorumv1.TaskProgress {
	return slices.SortedStableFunc(slices.Values(step.GetTasks()), func(a, b *requorumv1.TaskProgress) int {
		return strings.Compare(a.GetNode(), b.GetNode())
	})
}

func (s *Screen) summary(step *requorumv1.Step) string {
	names := make([]string, 0, len(step.GetTasks()))
	for _, task := range byNode(step) {
		names = append(names, where(task))
	}
	text := strings.Join(names, ", ")
	if step.GetState() == requorumv1.StepState_STEP_STATE_UNDONE {
		text = strings.TrimSpace("undone " + text)
	}
	return text
}

func (s *Screen) took(step *requorumv1.Step) string {
	if step.GetStarted() == nil {
		return ""
	}
	if step.GetEnded() != nil && !running(step.GetState()) {
		return output.Took(max(0, step.GetEnded().AsTime().Sub(step.GetStarted().AsTime())))
	}
	return output.Clock(s.now().Sub(step.GetStarted().AsTime()))
}

func (s *Screen) task(task *requorumv1.TaskProgress, width int) line {
	l := line{{"      " + pad(where(task), width) + "  ", plain}}
	if task.GetTotalBytes() > 0 {
		l = append(l, span{s.bar(task), s.color(task.GetState())}, span{" ", plain})
	}
	l = append(l, s.standing(task))
	if running(task.GetState()) && task.GetTotalBytes() > 0 {
		l = append(l, span{"  " + output.Of(task.GetDoneBytes(), task.GetTotalBytes()), plain})
		if rate := s.rate.of(task, s.now()); rate > 0 {
			l = append(l, span{"  " + output.Bytes(rate) + "/s", plain})
		}
	}
	if task.GetDetail() != "" {
		l = append(l, span{"  " + output.Clean(output.Brief(task.GetDetail())), dim})
	}
	return l
}

func (s *Screen) standing(task *requorumv1.TaskProgress) span {
	switch state := task.GetState(); {
	case state == requorumv1.StepState_STEP_STATE_DOING && task.GetTotalBytes() > 0:
		return span{fmt.Sprintf("%3d%%", percent(task)), plain}
	case state == requorumv1.StepState_STEP_STATE_DOING:
		return span{s.symbol("…", "..."), plain}
	case state == requorumv1.StepState_STEP_STATE_PENDING:
		return span{"waits", dim}
	default:
		return span{StepState(state), s.color(state)}
	}
}

// eighths are the left parts of a block, by eighths.
var eighths = []string{"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"}

func (s *Screen) bar(task *requorumv1.TaskProgress) string {
	share := float64(percent(task)) / 100
	if task.GetTotalBytes() > 0 {
		share = min(1, float64(task.GetDoneBytes())/float64(task.GetTotalBytes()))
	}
	if task.GetState() == requorumv1.StepState_STEP_STATE_DONE {
		share = 1
	}
	if s.term.ASCII {
		return "[" + pad(strings.Repeat("#", int(share*(barWidth-2))), barWidth-2) + "]"
	}
	parts := int(share * barWidth * 8)
	return pad(strings.Repeat("█", parts/8)+eighths[parts%8], barWidth)
}

// pending names the steps to come while the operation goes forward.
func (s *Screen) pending(columns int) []line {
	var names []string
	for _, step := range s.op.GetSteps() {
		if step.GetState() > requorumv1.StepState_STEP_STATE_PENDING {
			continue
		}
		name := output.Clean(step.GetName())
		if step.GetPivot() {
			name += " (no way back)"
		}
		names = append(names, name)
	}
	if len(names) == 0 || s.op.GetState() != requorumv1.OperationState_OPERATION_STATE_RUNNING {
		return nil
	}
	var lines []line
	for i, text := range wrap(names, min(columns, maxWidth)-12) {
		lead := "    then "
		if i > 0 {
			lead = "         "
		}
		lines = append(lines, line{{lead + text, dim}})
	}
	return lines
}

// notices say what a person should know now.
func (s *Screen) notices() []line {
	var lines []line
	if s.op.GetCancelRequested() && !Ended(s.op) {
		lines = append(lines, line{{"  ! cancellation was asked for", yellow}})
	}
	if s.lost != nil {
		lines = append(lines, line{{"  ! lost sight of it (it goes on), trying again: " + output.Clean(output.Brief(s.lost.Error())), yellow}})
	}
	return lines
}

func (s *Screen) mark(state requorumv1.StepState) (string, style) {
	st := s.color(state)
	switch state {
	case requorumv1.StepState_STEP_STATE_DONE:
		return s.symbol("✓", "+"), st
	case requorumv1.StepState_STEP_STATE_FAILED:
		return s.symbol("✗", "x"), st
	case requorumv1.StepState_STEP_STATE_UNDOING, requorumv1.StepState_STEP_STATE_UNDONE:
		return s.symbol("↶", "<"), st
	}
	return s.symbol("▸", ">"), st
}

func (s *Screen) color(state requorumv1.StepState) style {
	switch state {
	case requorumv1.StepState_STEP_STATE_DONE:
		return green
	case requorumv1.StepState_STEP_STATE_FAILED:
		return red
	case requorumv1.StepState_STEP_STATE_UNDOING, requorumv1.StepState_STEP_STATE_UNDONE:
		return yellow
	}
	return plain
}

func (s *Screen) symbol(unicode, ascii string) string {
	if s.term.ASCII {
		return ascii
	}
	return unicode
}

func pad(text string, width int) string {
	text = output.Clean(text)
	return text + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text)))
}

func fitted(text string, width int) string {
	runes := []rune(output.Clean(text))
	if len(runes) <= max(width, 1) {
		return string(runes)
	}
	return string(runes[:max(width, 1)-1]) + "…"
}

// wrap joins words with commas into lines of at most width.
func wrap(words []string, width int) []string {
	lines := []string{""}
	for i, word := range words {
		if i < len(words)-1 {
			word += ","
		}
		last := &lines[len(lines)-1]
		switch {
		case *last == "":
			*last = word
		case utf8.RuneCountInString(*last)+1+utf8.RuneCountInString(word) <= width:
			*last += " " + word
		default:
			lines = append(lines, word)
		}
	}
	return lines
}
