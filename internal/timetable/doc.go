// Package timetable says when a schedule is due, and whether one can be meant at all. It relies on a cron parser
// for what the five fields mean (docs/adr/0020-cron-parser.md) and brings the time zones along, since a node or a
// container may have none.
package timetable

import _ "time/tzdata" // zones, where the system has none
