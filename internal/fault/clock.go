package fault

// ClockName is the name under which a clock is set off; no point has it. A binary built with the tags faultinject and
// faultclock, and with the overlay that internal/fault/skewtime writes, has a wall clock that jumps: the file that
// [FileName] gives for this name says by how much it is wrong, as "1h" or "-1h". The file is looked at all the time; as
// soon as the clock has changed, a [Firing] says so.
const ClockName = "clock"
