// Prints what moby's matcher says of cases, one JSON line each: {"Patterns": [...], "Path": "..."} or {"File": "..."} in,
// true, false or "error" or the patterns of the file out.
package main

import (
	"bufio"
	"encoding/json"
	"os"
	"path"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

type question struct {
	Patterns []string
	Path     string
	File     *string
}

func malformed(patterns []string) bool {
	for _, pattern := range patterns {
		pattern = strings.TrimPrefix(path.Clean(strings.TrimSpace(pattern)), "!")
		if _, err := path.Match(pattern, ""); err != nil {
			return true
		}
	}
	return false
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	answers := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var asked question
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			panic(err)
		}
		var answer any = "error"
		if asked.File != nil {
			if patterns, err := ignorefile.ReadAll(strings.NewReader(*asked.File)); err == nil {
				answer = append([]string{}, patterns...)
			}
		} else if malformed(asked.Patterns) {
			// moby finds the fault only if what comes before it matches ".".
		} else if ignored, err := patternmatcher.MatchesOrParentMatches(asked.Path, asked.Patterns); err == nil {
			answer = ignored
		}
		answers.Encode(answer)
	}
}
