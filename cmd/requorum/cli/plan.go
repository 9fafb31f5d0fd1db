package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	requorumv1 "github.com/requorum/requorum/gen/requorum/v1"

	"github.com/requorum/requorum/cmd/requorum/cli/output"
)

// writePlan shows a restore's plan to a person: what, the checks, what stops and where old data stays.
func (p *program) writePlan(w io.Writer, plan *requorumv1.RestorePlan) error {
	ascii := false
	columns := 0 // one check a line, for logs
	if term, ok := p.terminal(); ok {
		columns, _ = term.Size()
		ascii = term.ASCII
	}
	var b strings.Builder
	b.WriteString(folded(p.planTitle(plan), columns))
	writeChecks(&b, plan.GetChecks(), columns, ascii)
	if !plan.GetRefused() {
		writeStops(&b, plan, columns)
		writeQuarantine(&b, plan, columns)
		writeSpace(&b, plan)
		writeFiles(&b, plan)
		if plan.GetRevision() > 0 {
			fmt.Fprintf(&b, "The revision will be %s\n", p.number(plan.GetRevision()))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// folded breaks text between words into lines that fit, all but the first indented; 0 columns for any width.
func folded(text string, columns int) string {
	var b strings.Builder
	width := 0
	for i, word := range strings.Split(text, " ") {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case columns > 0 && width+1+n > columns-1:
			b.WriteString("\n    ")
			width = 4
		default:
			b.WriteString(" ")
			width++
		}
		b.WriteString(word)
		width += n
	}
	return b.String() + "\n"
}

func (p *program) planTitle(plan *requorumv1.RestorePlan) string {
	s := plan.GetSnapshot()
	name := s.GetName()
	if name == "" {
		name = plan.GetSpec().GetSnapshot()
	}
	title := fmt.Sprintf("Restore %s from %s", plan.GetSpec().GetCluster(), name)
	if m := s.GetManifest(); m != nil {
		md5 := m.GetMd5()
		if len(md5) > 4 {
			md5 = md5[:4] + "…"
		}
		taken := m.GetCreated()
		if taken == nil {
			taken = s.GetCreated()
		}
		title += fmt.Sprintf(" (taken %s on %s, revision %s, %s, MD5 %s)", output.Ago(taken, p.now()), m.GetNode(),
			p.number(m.GetRevision()), output.Bytes(m.GetSize()), md5)
	}
	return output.Clean(title)
}

// writeChecks shows good checks in two columns where they fit, and the others one a line with what to do.
func writeChecks(b *strings.Builder, checks []*requorumv1.Check, columns int, ascii bool) {
	var good, rest []*requorumv1.Check
	for _, check := range checks {
		if check.GetState() == requorumv1.CheckState_CHECK_STATE_PASSED {
			good = append(good, check)
		} else {
			rest = append(rest, check)
		}
	}
	half := columns/2 - 1
	held := ""
	flush := func() {
		if held != "" {
			b.WriteString(held + "\n")
			held = ""
		}
	}
	for _, check := range good {
		cell := "  " + checkText(check, ascii)
		switch width := utf8.RuneCountInString(cell); {
		case width > half:
			flush()
			b.WriteString(cell + "\n")
		case held != "":
			b.WriteString(held + strings.Repeat(" ", half-utf8.RuneCountInString(held)) + cell[2:] + "\n")
			held = ""
		default:
			held = cell
		}
	}
	flush()
	for _, check := range rest {
		b.WriteString("  " + checkText(check, ascii) + "\n")
		if check.GetAdvice() != "" {
			b.WriteString("      " + output.Clean(check.GetAdvice()) + "\n")
		}
	}
}

func checkText(check *requorumv1.Check, ascii bool) string {
	mark := "!"
	switch check.GetState() {
	case requorumv1.CheckState_CHECK_STATE_PASSED:
		if mark = "✓"; ascii {
			mark = "+"
		}
	case requorumv1.CheckState_CHECK_STATE_FAILED:
		if mark = "✗"; ascii {
			mark = "x"
		}
	}
	text := check.GetMessage()
	if text == "" {
		text = check.GetName()
	}
	return mark + " " + output.Clean(onNode(check.GetNode(), text))
}

// onNode is a text that begins with the node it is about, if it is about one.
func onNode(node, text string) string {
	if node == "" {
		return text
	}
	// A longer name may begin with this one, and so may a path.
	if rest, begins := strings.CutPrefix(text, node); begins && (rest == "" || strings.ContainsAny(rest[:1], " :,;'")) {
		return text
	}
	return node + ": " + text
}

// grouped joins the nodes of which something is the same, in order of first appearance.
func grouped(nodes []*requorumv1.NodePlan, of func(*requorumv1.NodePlan) string) (values []string, names map[string][]string) {
	names = make(map[string][]string)
	for _, node := range nodes {
		value := of(node)
		if value == "" {
			continue
		}
		if !slices.Contains(values, value) {
			values = append(values, value)
		}
		names[value] = append(names[value], node.GetNode())
	}
	return values, names
}

func writeStops(b *strings.Builder, plan *requorumv1.RestorePlan, columns int) {
	stops, nodes := grouped(plan.GetNodes(), func(n *requorumv1.NodePlan) string { return strings.Join(n.GetStops(), ", ") })
	for i, stop := range stops {
		line := fmt.Sprintf("Stops: %s on %s", stop, strings.Join(nodes[stop], ", "))
		if i == len(stops)-1 && plan.GetEstimatedDowntime() != nil {
			line += ", for about " + output.Hours(max(1e9, plan.GetEstimatedDowntime().AsDuration()))
		}
		b.WriteString(folded(output.Clean(line), columns))
	}
}

func writeQuarantine(b *strings.Builder, plan *requorumv1.RestorePlan, columns int) {
	paths, nodes := grouped(plan.GetNodes(), func(n *requorumv1.NodePlan) string { return strings.Join(n.GetQuarantinePaths(), " and ") })
	for _, path := range paths {
		on := ""
		if len(paths) > 1 {
			on = " on " + strings.Join(nodes[path], ", ")
		}
		b.WriteString(folded(output.Clean(fmt.Sprintf("Old data stays at %s%s%s", path, on, quarantineOf(plan.GetSpec()))), columns))
	}
}

// writeFiles lists the files of the snapshot that are not as they are on their nodes; the checks count the others.
func writeFiles(b *strings.Builder, plan *requorumv1.RestorePlan) {
	for _, node := range plan.GetNodes() {
		for _, f := range node.GetFiles() {
			if f.GetState() != requorumv1.FileState_FILE_STATE_SAME {
				fmt.Fprintf(b, "File on %s: %s %s\n", output.Clean(node.GetNode()), output.Clean(f.GetPath()), word(f.GetState().String(), "FILE_STATE_"))
			}
		}
	}
}

// writeSpace names the node on which space is shortest, unless a check does.
func writeSpace(b *strings.Builder, plan *requorumv1.RestorePlan) {
	if slices.ContainsFunc(plan.GetChecks(), func(c *requorumv1.Check) bool { return strings.Contains(c.GetName(), "space") }) {
		return
	}
	var fullest *requorumv1.NodePlan
	for _, node := range plan.GetNodes() {
		if node.GetNeededBytes() > 0 && (fullest == nil || node.GetFreeBytes()-node.GetNeededBytes() < fullest.GetFreeBytes()-fullest.GetNeededBytes()) {
			fullest = node
		}
	}
	if fullest != nil {
		fmt.Fprintf(b, "Space: %s needed, %s free on the fullest (%s)\n", output.Bytes(fullest.GetNeededBytes()), output.Bytes(fullest.GetFreeBytes()), output.Clean(fullest.GetNode()))
	}
}
