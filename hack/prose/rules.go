package main

import (
	"regexp"
	"strings"
)

// A rule is a construction that plain technical English avoids.
type rule struct {
	name   string
	better string         // what to write instead
	match  *regexp.Regexp // finds it in a sentence whose code and quotations are masked
	except *regexp.Regexp // a match that also matches this is not a hit
}

const (
	verb  = `(is|are|was|were|isn't|aren't|has|have|had|will|would|can|can't|could|may|might|must|does|do|did|doesn't|don't|needs?|goes|comes?|makes?|takes?|stays?|gets?|gives?|keeps?)`
	human = `(you|user|users|operator|operators|admin|caller|callers|reader|people|person|someone|author|authors|developer|we|I)`
	paper = `((RFC|KEP)[ -]\d+|RFC|RFCs|KEP|KEPs|spec|specification|standard|doc|docs|documentation|comment|page|pages|manual|README|changelog)`
)

// rules are the constructions, in the order in which they are tried.
var rules = []rule{
	{
		name:   "tells",
		better: "reports whether, returns, sends; distinguishes",
		match:  regexp.MustCompile(`(?i)([\w']+ )?\b(tells|told|telling|tell)\b( \w+)?`),
		except: regexp.MustCompile(`(?i)^(can|cannot|can't|could|couldn't) tell\b|tell (the difference|apart)`),
	},
	{
		name:   "says, hears, knows",
		better: "returns, reports, contains, receives, has",
		match:  regexp.MustCompile(`(?i)((RFC|KEP)[ -])?(\w+ )?\b(says|said|saying|hears|hear|heard|hearing|knows|speaks|(speak|spoke|spoken) of|say (what|that|whether|nothing|which|how|who|so|it|something)|to say)\b( \w+)?`),
		except: regexp.MustCompile(`(?i)^` + human + ` |^` + paper + ` |knows how\b|is to say`),
	},
	{
		name:   "wants, bears, complains",
		better: "needs, expects, has, reports",
		match:  regexp.MustCompile(`(?i)(\w+ |\w-)?\b(wants|bears|bearing|borne|complains?|complained|looks? around|looking around|insists?|insisted)\b`),
		except: regexp.MustCompile(`(?i)^` + human + ` |-bearing`),
	},
	{
		name:   "is no",
		better: "is not a",
		match:  regexp.MustCompile(`(?i)(there )?(\w+ )?\b(is|are|was|were|be|being|been) no \w+( than)?`),
		except: regexp.MustCompile(`(?i)^there |than$|no (longer|more|less|matter|different|doubt|op|later|better|worse|such)\b`),
	},
	{
		name:   "for as a conjunction",
		better: "because",
		match: regexp.MustCompile(`[,;:] for (it|they|he|we|you|I|there|nobody|nothing|everything|this|that|these|those) ` + verb + `\b` +
			`|[,;:] for (the|a|an|our|its|their|no|any|each|all|some|such|both|one|this|that|these|those|only|of)( [\w'-]+){1,6}? ` + verb + `\b` +
			`|^For (it|they|there|we) `),
	},
	{
		name:   "clause as the subject",
		better: "a concrete noun",
		match: regexp.MustCompile(`^(Who|Whoever|Whose|Whom|What|Whatever|Whichever|Which)\b.*[^?]$` +
			`|^(How|Whether)\b.* (is|are) (told|known|said|decided|asked|read|reported|logged|kept|taken|looked)\b[^?]*$` +
			`|^That (somebody|nobody|a|an|the|it|all|no|most|more|some|there|they|we|another|our)\b` +
			`|(^|; |\b(and|but|so) )who \w+ |(^|[^?] )whoever \w+ `),
		except: regexp.MustCompile(`^(What|Which|Who) (to|if|about)\b|^(What|Which|Who|Whose|Where)( [^ .,:;]+){1,5}$`),
	},
	{
		name:   "somebody",
		better: "another process, an operator",
		match:  regexp.MustCompile(`(?i)\b(somebody|nobody|anybody|everybody)\b`),
	},
	{
		name:   "archaic",
		better: "again, forever, by then",
		match:  regexp.MustCompile(`(?i)\b(anew|for ever|whosever|midst|abreast)\b`),
	},
	{
		name:   "spelling",
		better: "that of the United States",
		match: regexp.MustCompile(`(?i)(neighbour|behaviour|colour|favour|honour|labour|flavour|rumour|vapour|licence|defence|offence|artefact|catalogue` +
			`|\b(centre|grey|whilst|amongst|analyse|travell|programme)` +
			`|(normal|recogn|initial|serial|organ|optim|synchron|summar|custom|author|minim|maxim|prior|final|util|categor|emphas|character|general|special|real)is(e|es|ed|ing|ation|er)\b)`),
		except: regexp.MustCompile(`(?i)^(realiser|characterise)$`),
	},
	{
		name:   "private word",
		better: "the term of the field, see docs/glossary.md",
		match: regexp.MustCompile(`(?i)\b(heralds?|proclamations?|duty|duties|diary|diaries|agendas?|tales?|rivals?|weapons?|vigils?|patience|forger(y|ies)` +
			`|contests?|contested|sweepers?|knock(s|ed|ing)?|surveys?|essence|complaints?|witness(es)?|cures?|cured|patiently|restingQueue)\b` +
			`|\b([Tt]he|[Aa]|[Ee]ach|[Aa]ll|of|\*)\s?([Pp]atients?|strikes?)\b|\bPatients?\b`),
	},
}

// masked are code, quotations and names of man pages.
var masked = regexp.MustCompile("`[^`]*`" + `|"[^"]{1,200}"|“[^”]*”|[\w.-]+\(\d\)`)

// broken returns the rules that a sentence breaks.
func broken(s string) []rule {
	plain := strings.TrimSpace(masked.ReplaceAllString(s, "X"))
	var all []rule
	for _, r := range rules {
		for _, hit := range r.match.FindAllString(plain, -1) {
			if r.except == nil || !r.except.MatchString(hit) {
				all = append(all, r)
				break
			}
		}
	}
	return all
}
