package csi

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"text/template"

	"sigs.k8s.io/yaml"

	"vitastor/frontends/blockdev/daemon"
)

var updateManifests = flag.Bool("update", false, "write deploy/manifests from the chart")

const namespace = "vitastor-system"

// document is a YAML document of a manifest.
type document map[string]any

// at follows names and numbers into a document; nil = there is nothing.
func at(v any, path ...any) any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			switch m := v.(type) {
			case document:
				v = m[step]
			case map[string]any:
				v = m[step]
			default:
				return nil
			}
		case int:
			list, _ := v.([]any)
			if step >= len(list) {
				return nil
			}
			v = list[step]
		}
	}
	return v
}

func list(v any, path ...any) []any {
	l, _ := at(v, path...).([]any)
	return l
}

// documents reads a manifest. A name that is given twice is an error.
func documents(t *testing.T, name, text string) (all []document) {
	t.Helper()
	for part := range strings.SplitSeq("\n"+text, "\n---\n") {
		var d document
		if err := yaml.UnmarshalStrict([]byte(part), &d); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, part)
		}
		if d == nil {
			continue
		}
		if at(d, "apiVersion") == nil || at(d, "kind") == nil || at(d, "metadata", "name") == nil {
			t.Errorf("%s: no object of Kubernetes: %v", name, d)
		}
		all = append(all, d)
	}
	return all
}

// helmFunctions are those of Helm that the chart uses.
var helmFunctions = template.FuncMap{
	"quote": func(v any) string { return fmt.Sprintf("%q", fmt.Sprint(v)) },
	"toJson": func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			return err.Error()
		}
		return string(text)
	},
	"default": func(missing, v any) any {
		if v == nil || reflect.ValueOf(v).IsZero() {
			return missing
		}
		return v
	},
}

// render is what `helm template` would print, by file.
func render(t *testing.T, change func(values map[string]any)) map[string]string {
	t.Helper()
	text, err := os.ReadFile("deploy/chart/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	if err := yaml.UnmarshalStrict(text, &values); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(values)
	}
	files := map[string]string{}
	paths, _ := filepath.Glob("deploy/chart/templates/*")
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := template.New(path).Option("missingkey=zero").Funcs(helmFunctions).Parse(string(text))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := parsed.Execute(&out, map[string]any{"Values": values, "Release": map[string]any{"Namespace": namespace}}); err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(path)] = strings.TrimPrefix(strings.TrimLeft(out.String(), "\n"), "---\n")
	}
	return files
}

// TestManifests: manifests are those of the chart with its values, and are about
// this driver.
func TestManifests(t *testing.T) {
	rendered := render(t, nil)
	byKind := map[string][]document{}
	for name := range rendered {
		path := filepath.Join("deploy/manifests", name)
		if *updateManifests {
			if err := os.WriteFile(path, []byte(rendered[name]), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != rendered[name] {
			t.Errorf("%s is not what the chart makes: go test ./frontends/csi -run TestManifests -update (%v)", path, err)
		}
	}
	paths, _ := filepath.Glob("deploy/manifests/*.yaml")
	if len(paths) != len(rendered)+1 { // the namespace
		t.Errorf("manifests: %v", paths)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range documents(t, path, string(text)) {
			kind := fmt.Sprint(at(d, "kind"))
			byKind[kind] = append(byKind[kind], d)
			if ns := at(d, "metadata", "namespace"); ns != nil && ns != namespace {
				t.Errorf("%s: namespace %v", path, ns)
			}
		}
	}
	for kind, path := range map[string][]any{"CSIDriver": {"metadata", "name"}, "StorageClass": {"provisioner"}, "VolumeSnapshotClass": {"driver"}} {
		if got := at(byKind[kind][0], path...); got != DriverName {
			t.Errorf("%s is about %v", kind, got)
		}
	}
	params := map[string]string{}
	for name, value := range at(byKind["StorageClass"][0], "parameters").(map[string]any) {
		params[name] = fmt.Sprint(value)
	}
	if p, err := parseParams(params, defaultConfigPath, quietLog); err != nil || p.pool == "" || p.configPath != defaultConfigPath {
		t.Errorf("StorageClass: %+v, %v", p, err)
	}
	data := at(byKind["ConfigMap"][0], "data").(map[string]any)
	config := filepath.Join(t.TempDir(), "vitastor.conf")
	os.WriteFile(config, []byte(data[filepath.Base(defaultConfigPath)].(string)), 0o644)
	if err := checkConfig(config); err != nil {
		t.Error(err)
	}
	checkPods(t, byKind["DaemonSet"][0], byKind)
	checkPods(t, byKind["Deployment"][0], byKind)
}

// checkPods looks at a template of pods: what it refers to exists, our program
// understands its arguments and finds its folders.
func checkPods(t *testing.T, d document, byKind map[string][]document) {
	t.Helper()
	name := at(d, "metadata", "name")
	pod := at(d, "spec", "template", "spec")
	if at(d, "spec", "selector", "matchLabels", "app") != at(d, "spec", "template", "metadata", "labels", "app") {
		t.Errorf("%v does not select its pods", name)
	}
	account := func(a document) bool { return at(a, "metadata", "name") == at(pod, "serviceAccountName") }
	if !slices.ContainsFunc(byKind["ServiceAccount"], account) {
		t.Errorf("%v: no such account", name)
	}
	volumes := map[any]any{}
	for _, v := range list(pod, "volumes") {
		volumes[at(v, "name")] = at(v, "hostPath", "path")
	}
	mounted := map[string]any{}
	for _, c := range list(pod, "containers") {
		for _, m := range list(c, "volumeMounts") {
			host, is := volumes[at(m, "name")]
			if !is {
				t.Errorf("%v: there is no volume %v", name, at(m, "name"))
			}
			if at(c, "name") == "csi-vitastor" {
				mounted[at(m, "mountPath").(string)] = host
			}
		}
		if at(c, "name") == "csi-vitastor" {
			checkOwn(t, c)
		}
	}
	if mounted[filepath.Dir(defaultConfigPath)] != nil || !slices.Contains(keys(mounted), filepath.Dir(defaultConfigPath)) {
		t.Errorf("%v: the configuration is not mounted: %v", name, mounted)
	}
	if at(d, "kind") != "DaemonSet" {
		return
	}
	for _, dir := range []string{"/dev", "/sys", defaultStateDir, daemon.StateDir(), "/lib/modules", "/var/lib/kubelet"} {
		if mounted[dir] != dir {
			t.Errorf("%v: %s is not that of the host", name, dir)
		}
	}
}

func keys(m map[string]any) (all []string) {
	for k := range m {
		all = append(all, k)
	}
	return all
}

// checkOwn reads the command line of our container as the program does.
func checkOwn(t *testing.T, c any) {
	t.Helper()
	var args []string
	for _, a := range list(c, "args") {
		args = append(args, strings.ReplaceAll(fmt.Sprint(a), "$(NODE_ID)", "node1"))
	}
	env := map[string]string{}
	for _, e := range list(c, "env") {
		env[fmt.Sprint(at(e, "name"))], _ = at(e, "value").(string)
	}
	tool := Tool{Out: io.Discard, Err: io.Discard, Env: func(name string) string { return env[name] }}
	config, _, err := tool.parse(args)
	if err != nil || config.Node != "node1" || config.Driver != DriverName || config.Endpoint != "unix:///csi/csi.sock" {
		t.Errorf("%v: %+v, %v", args, config, err)
	}
	if image := fmt.Sprint(at(c, "image")); !strings.HasSuffix(image, ":v"+Version) {
		t.Errorf("image %s is not of version %s", image, Version)
	}
}

// TestChart renders with everything that is not the default, by ourselves and
// by helm if there is one.
func TestChart(t *testing.T) {
	var chart map[string]any
	text, err := os.ReadFile("deploy/chart/Chart.yaml")
	if err == nil {
		err = yaml.UnmarshalStrict(text, &chart)
	}
	if err != nil || chart["version"] != Version || chart["appVersion"] != Version {
		t.Errorf("%v, %v", chart, err)
	}
	change := func(v map[string]any) {
		v["attach"], v["maxVolumes"], v["snapshotClass"] = "ublk", 20.0, ""
		v["moreConfigs"] = map[string]any{"other.conf": map[string]any{"etcd_address": "10.0.0.1:2379"}}
		v["storageClasses"] = []any{map[string]any{"name": "a", "poolId": 5.0, "volumePrefix": "k8s-", "configPath": "/etc/vitastor/other.conf", "fsType": "xfs"}, map[string]any{"name": "b", "poolId": "ssd"}}
		v["controller"].(map[string]any)["tolerations"] = []any{map[string]any{"operator": "Exists"}}
	}
	files := render(t, change)
	classes := documents(t, "classes", files["009-storageclass.yaml"])
	if len(classes) != 2 || at(classes[0], "parameters", "poolId") != "5" || at(classes[0], "parameters", "volumePrefix") != "k8s-" ||
		at(classes[0], "parameters", "csi.storage.k8s.io/fstype") != "xfs" || at(classes[1], "parameters", "configPath") != nil {
		t.Errorf("%v", classes)
	}
	if got := documents(t, "config", files["001-config.yaml"]); at(got[0], "data", "other.conf") != `{"etcd_address":"10.0.0.1:2379"}` {
		t.Errorf("%v", got)
	}
	if got := documents(t, "snapshots", files["010-snapshotclass.yaml"]); len(got) != 0 {
		t.Errorf("%v", got)
	}
	node := documents(t, "node", files["004-node.yaml"])[0]
	if got := fmt.Sprint(list(node, "spec", "template", "spec", "containers", 1, "args")); !strings.Contains(got, "--attach=ublk --max_volumes=20") {
		t.Error(got)
	}
	checkOwn(t, at(node, "spec", "template", "spec", "containers", 1))
	helm, err := exec.LookPath("helm")
	if err != nil {
		t.Log("the chart is not rendered by helm itself: it is not installed")
		return
	}
	out, err := exec.Command(helm, "template", "x", "deploy/chart", "--namespace", namespace).Output()
	if err != nil {
		t.Fatal(err)
	}
	got, want := documents(t, "helm", string(out)), 0
	for name, text := range render(t, nil) {
		want += len(documents(t, name, text))
	}
	if len(got) != want {
		t.Errorf("helm makes %d documents, not %d", len(got), want)
	}
}

// TestExamples: what they refer to is in the manifests.
func TestExamples(t *testing.T) {
	classes := map[any]bool{}
	for name, text := range render(t, nil) {
		for _, d := range documents(t, name, text) {
			classes[fmt.Sprint(at(d, "kind"), " ", at(d, "metadata", "name"))] = true
		}
	}
	claims := map[any]bool{}
	paths, _ := filepath.Glob("deploy/examples/*.yaml")
	slices.Sort(paths)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range documents(t, path, string(text)) {
			switch at(d, "kind") {
			case "PersistentVolumeClaim":
				claims[at(d, "metadata", "name")] = true
				if !classes[fmt.Sprint("StorageClass ", at(d, "spec", "storageClassName"))] {
					t.Errorf("%s: %v", path, at(d, "spec", "storageClassName"))
				}
			case "VolumeSnapshot":
				if !classes[fmt.Sprint("VolumeSnapshotClass ", at(d, "spec", "volumeSnapshotClassName"))] || !claims["test-vitastor-pvc"] {
					t.Errorf("%s: %v", path, d)
				}
			case "Pod":
				if claim := at(d, "spec", "volumes", 0, "persistentVolumeClaim", "claimName"); !claims[claim] {
					t.Errorf("%s: no claim %v", path, claim)
				}
			}
		}
	}
	if len(paths) != 3 || len(claims) != 4 {
		t.Errorf("%v, %v", paths, claims)
	}
}
