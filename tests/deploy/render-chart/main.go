// render-chart renders a Helm chart as `helm template` does, with the libraries that Helm is made of (Go's text/template,
// sprig, gojsonschema), where Helm itself cannot be had: what Helm adds to them is here, as far as charts of this
// project use it. Stricter than Helm in one thing: a value that is not there is an error.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"github.com/ghodss/yaml"
	"github.com/xeipuuv/gojsonschema"
)

// installOrder is the order in which Helm installs kinds; others come last.
var installOrder = []string{
	"Namespace", "NetworkPolicy", "ResourceQuota", "LimitRange", "PodSecurityPolicy", "PodDisruptionBudget",
	"ServiceAccount", "Secret", "ConfigMap", "StorageClass", "PersistentVolume", "PersistentVolumeClaim",
	"CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Service", "DaemonSet", "Pod",
	"ReplicationController", "ReplicaSet", "Deployment", "HorizontalPodAutoscaler", "StatefulSet", "Job", "CronJob",
	"IngressClass", "Ingress", "APIService",
}

type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	var valueFiles list
	namespace := flag.String("namespace", "kube-system", "the release's namespace")
	notes := flag.Bool("notes", false, "print NOTES.txt instead")
	flag.Var(&valueFiles, "values", "a file of values; may be given several times")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: render-chart [--values FILE]… [--namespace NAME] [--notes] CHART")
		os.Exit(2)
	}
	rendered, err := render(flag.Arg(0), valueFiles, *namespace, *notes)
	if err != nil {
		fmt.Fprintln(os.Stderr, "render-chart:", err)
		os.Exit(1)
	}
	fmt.Print(rendered)
}

func render(chart string, valueFiles []string, namespace string, notes bool) (string, error) {
	meta, err := readYAML(filepath.Join(chart, "Chart.yaml"))
	if err != nil {
		return "", err
	}
	values, err := readYAML(filepath.Join(chart, "values.yaml"))
	if err != nil {
		return "", err
	}
	for _, file := range valueFiles {
		over, err := readYAML(file)
		if err != nil {
			return "", err
		}
		values = merge(values, over)
	}
	if err := validate(filepath.Join(chart, "values.schema.json"), values); err != nil {
		return "", err
	}
	about := map[string]interface{}{}
	for name, value := range meta {
		about[strings.ToUpper(name[:1])+name[1:]] = value
	}
	base := fmt.Sprintf("%v/templates", meta["name"])
	context := func(name string) map[string]interface{} {
		return map[string]interface{}{
			"Values":       values,
			"Chart":        about,
			"Release":      map[string]interface{}{"Name": meta["name"], "Namespace": namespace, "Service": "Helm", "IsInstall": true, "IsUpgrade": false, "Revision": 1},
			"Capabilities": map[string]interface{}{"KubeVersion": map[string]interface{}{"Version": "v1.33.0", "Major": "1", "Minor": "33"}},
			"Template":     map[string]interface{}{"Name": name, "BasePath": base},
		}
	}

	all := template.New("chart").Option("missingkey=zero")
	all.Funcs(functions(all))
	files, err := filepath.Glob(filepath.Join(chart, "templates", "*"))
	if err != nil {
		return "", err
	}
	sort.Strings(files)
	var names []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		name := base + "/" + filepath.Base(file)
		if _, err := all.New(name).Parse(string(text)); err != nil {
			return "", err
		}
		switch {
		case notes && filepath.Base(file) == "NOTES.txt", !notes && filepath.Ext(file) == ".yaml":
			names = append(names, name)
		}
	}
	var documents []document
	for _, name := range names {
		var out bytes.Buffer
		if err := all.ExecuteTemplate(&out, name, context(name)); err != nil {
			return "", err
		}
		text := out.String()
		for _, sign := range []string{"<no value>", "%!"} {
			if strings.Contains(text, sign) {
				return "", fmt.Errorf("%s: %q in what it renders:\n%s", name, sign, text)
			}
		}
		if notes {
			return text, nil
		}
		found, err := split(name, text)
		if err != nil {
			return "", err
		}
		documents = append(documents, found...)
	}
	sort.SliceStable(documents, func(i, j int) bool { return documents[i].rank < documents[j].rank })
	var whole strings.Builder
	for _, document := range documents {
		fmt.Fprintf(&whole, "---\n# Source: %s\n%s\n", document.name, document.text)
	}
	return whole.String(), nil
}

// document is an object as text, the template that it came from, and its place.
type document struct {
	name, text string
	rank       int
}

// split takes what a template rendered apart; documents without an object are left out.
func split(name, text string) ([]document, error) {
	var documents []document
	for _, part := range strings.Split("\n"+text, "\n---") {
		part = strings.TrimSpace(part)
		var object map[string]interface{}
		if err := yaml.Unmarshal([]byte(part), &object); err != nil {
			return nil, fmt.Errorf("%s: %w:\n%s", name, err, part)
		}
		if len(object) == 0 {
			continue
		}
		rank := len(installOrder)
		for at, kind := range installOrder {
			if object["kind"] == kind {
				rank = at
			}
		}
		documents = append(documents, document{name, part, rank})
	}
	return documents, nil
}

// functions are sprig's, without what Helm takes away, and those that Helm adds.
func functions(all *template.Template) template.FuncMap {
	functions := sprig.TxtFuncMap()
	delete(functions, "env")
	delete(functions, "expandenv")
	functions["toYaml"] = func(value interface{}) (string, error) {
		text, err := yaml.Marshal(value)
		return strings.TrimSuffix(string(text), "\n"), err
	}
	functions["toJson"] = func(value interface{}) (string, error) {
		text, err := json.Marshal(value)
		return string(text), err
	}
	functions["required"] = func(message string, value interface{}) (interface{}, error) {
		if value == nil || value == "" {
			return nil, errors.New(message)
		}
		return value, nil
	}
	functions["fail"] = func(message string) (string, error) { return "", errors.New(message) }
	functions["include"] = func(name string, data interface{}) (string, error) {
		var out bytes.Buffer
		err := all.ExecuteTemplate(&out, name, data)
		return out.String(), err
	}
	return functions
}

// merge lays values over others as Helm does: maps are merged, null takes away, all else replaces.
func merge(under, over map[string]interface{}) map[string]interface{} {
	for name, value := range over {
		if value == nil {
			delete(under, name)
			continue
		}
		below, belowIsMap := under[name].(map[string]interface{})
		above, aboveIsMap := value.(map[string]interface{})
		if belowIsMap && aboveIsMap {
			under[name] = merge(below, above)
		} else {
			under[name] = value
		}
	}
	return under
}

func validate(schema string, values map[string]interface{}) error {
	text, err := os.ReadFile(schema)
	if err != nil {
		return err
	}
	result, err := gojsonschema.Validate(gojsonschema.NewBytesLoader(text), gojsonschema.NewGoLoader(values))
	if err != nil {
		return fmt.Errorf("%s: %w", schema, err)
	}
	if result.Valid() {
		return nil
	}
	var wrong []string
	for _, one := range result.Errors() {
		wrong = append(wrong, "- "+one.String())
	}
	return fmt.Errorf("values don't meet the specifications of the schema:\n%s", strings.Join(wrong, "\n"))
}

func readYAML(file string) (map[string]interface{}, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	values := map[string]interface{}{}
	if err := yaml.Unmarshal(text, &values); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return values, nil
}
