package member

// LoggedIn makes m show a token that a cluster gave it.
func LoggedIn(m *Member, text, clusterID string) { m.token = token{text, clusterID} }
