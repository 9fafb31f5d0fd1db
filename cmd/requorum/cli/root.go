package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

const (
	groupOperate = "operate"
	groupAccess  = "access"
	groupServe   = "serve"
)

const rootLong = `requorum backs up etcd clusters and brings them back.

One snapshot is taken, every node holds the same verified file, and a restore
of the whole cluster either finishes or puts the cluster back as it was.

The operator's commands ask the controller. Where it is and how to prove who
you are stands in a file that "requorum access create" writes:

  controller: requorum.example.org:7079
  ca: ca.crt
  cert: client.crt
  key: client.key

It is found by --config, $REQUORUM_CONFIG, ~/.config/requorum/requorum.yaml or
/etc/requorum/requorum.yaml, in this order; flags come before what it says.

` + exitCodes

// exitCodes is part of the root command's help and a help topic of its own.
const exitCodes = `Exit codes:
  0  done; nothing else ends with 0
  1  any other error: the controller does not answer, a full disk, Ctrl-C
     (which ends the command, not the operation)
  2  usage: an unknown command or flag, something missing, nobody to confirm, a
     configuration file that is not there or cannot be understood
  3  refused: by a check before anything was changed, by a restore's plan, or
     by the controller (not found, name taken, not allowed, not now)
  4  failed, and everything is as it was before
  5  failed, or was abandoned, and a person is needed; requorum keeps trying
     meanwhile, unless the operation was abandoned`

func (p *program) root(extra ...*cobra.Command) *cobra.Command {
	root := &cobra.Command{
		Use:           "requorum",
		Short:         "Back up etcd clusters and bring them back",
		Long:          rootLong,
		Example:       "  requorum cluster status\n  requorum snapshot save --cluster prod --name pre-1.31\n  requorum restore --cluster prod --snapshot pre-1.31 --plan",
		Version:       p.version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(p.in)
	root.SetOut(p.out)
	root.SetErr(p.err)
	parent(root)
	root.SetVersionTemplate("requorum {{.Version}}\n")
	p.settings.addFlags(root)
	root.AddGroup(
		&cobra.Group{ID: groupOperate, Title: "Snapshots and restores:"},
		&cobra.Group{ID: groupAccess, Title: "Letting nodes and operators in:"},
	)
	if len(extra) > 0 {
		root.AddGroup(&cobra.Group{ID: groupServe, Title: "Running requorum:"})
	}
	addTo(root, groupOperate, p.clusterCommand(), p.snapshotCommand(), p.restoreCommand(), p.remoteCommand(), p.scheduleCommand(), p.operationCommand(),
		p.catalogCommand(), p.hookCommand())
	addTo(root, groupAccess, p.tokenCommand(), p.accessCommand(), p.auditCommand())
	for _, command := range extra {
		// The client's flags do nothing for a server.
		command.SetUsageTemplate(withoutGlobalFlags(command.UsageTemplate()))
		addTo(root, groupServe, command)
	}
	root.AddCommand(p.versionCommand(), &cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: exitCodes})
	p.addCompletion(root)
	addHelp(root)
	return root
}

// addHelp adds cobra's help command, which here does not end with 0 where it has nothing to tell.
func addHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		if c.Name() != "help" {
			continue
		}
		tell := c.Run
		c.Run = nil
		c.RunE = func(c *cobra.Command, args []string) error {
			if found, rest, err := root.Find(args); err == nil && len(rest) > 0 && found.HasSubCommands() {
				return found.RunE(found, rest)
			}
			tell(c, args)
			return nil
		}
	}
}

func addTo(root *cobra.Command, group string, commands ...*cobra.Command) {
	for _, command := range commands {
		if command.GroupID == "" {
			command.GroupID = group
		}
		root.AddCommand(command)
	}
}

func withoutGlobalFlags(template string) string {
	const start = "{{if .HasAvailableInheritedFlags}}"
	before, rest, found := strings.Cut(template, start)
	if !found {
		return template
	}
	_, after, _ := strings.Cut(rest, "{{end}}")
	return before + after
}

// parent makes c a command that does nothing but hold others.
func parent(c *cobra.Command, children ...*cobra.Command) *cobra.Command {
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			c.SetOut(c.ErrOrStderr())
			if err := c.Help(); err != nil {
				return err
			}
			return usagef("%s: say which command", c.CommandPath())
		}
		suggestions := ""
		c.SuggestionsMinimumDistance = 2
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			suggestions = "; did you mean " + strings.Join(near, " or ") + "?"
		}
		return usagef("%s has no command %q%s", c.CommandPath(), args[0], suggestions)
	}
	c.AddCommand(children...)
	return c
}

// takes returns a check that a command is given exactly the arguments named.
func takes(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return fmt.Errorf("%s is missing", names[len(args)])
		case len(args) > len(names):
			return fmt.Errorf("unexpected argument %q", args[len(names)])
		}
		return nil
	}
}

// mayTake returns a check that a command is given at most the one argument.
func mayTake() cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) > 1 {
			return fmt.Errorf("unexpected argument %q", args[1])
		}
		return nil
	}
}
