# Prints a table of what logs of hack/kernels.sh show: a column for each kernel, and a row for each test of test/links and for
# each other package.
BEGIN {
  what["TestKinds/vlan"] = "InternalIPs on a VLAN"
  what["TestKinds/bond"] = "... on a bond (active-backup)"
  what["TestKinds/bridge"] = "... on a bridge"
  what["TestKinds/macvlan"] = "... on a macvlan device"
  what["TestSingleAddresses/lo"] = "... as /32 and /128 on lo"
  what["TestSingleAddresses/dummy"] = "... as /32 and /128 on a dummy device"
  what["TestSingleAddressOnLink"] = "... as /32 on lo, on link"
  what["TestUnnumbered"] = "... as /32 on lo, by IPv6 gateways"
  what["TestOnLinkGateway"] = "... behind an on-link gateway"
  what["TestPointToPoint"] = "... on a point-to-point link"
  what["TestWireGuard/allowed_pods"] = "WireGuard that carries the pods' addresses"
  what["TestWireGuard/tunnels_to_all"] = "... that carries tunnels to all peers"
  what["TestWireGuard/tunnels_across_subnets"] = "... that carries tunnels to peers off link"
  what["TestVRF"] = "the uplink in a VRF"
  what["TestTable"] = "another routing table"
  what["TestTableOfAVRF"] = "... that of a VRF"
  what["TestRoutesInAnotherTable"] = "the host's routes in another table"
  what["TestBondLosesACable"] = "a bond's active link is pulled"
  what["TestLinkLosesItsCarrier"] = "a link loses its carrier"
  what["TestLinkGoesAndComesBack"] = "a link goes and comes back"
  what["TestLinkIsRenamed"] = "a link is renamed"
  what["TestKernelWithout"] = "one problem for each missing feature"
}

FNR == 1 {
  kernels++
  parameter = FILENAME
  if (!sub(/^[^+]*\+/, "", parameter)) parameter = ""
  sub(/\.log$/, "", parameter)
}

/^kernels: Linux / { head[kernels] = $3 (parameter == "" ? "" : ", `" parameter "`"); sub(/-cloud-amd64/, "", head[kernels]) }

/^kernels: tests of / { package = $4; sub(/_/, "/", package) }

/^ *--- (PASS|FAIL|SKIP): / {
  verdict = $2
  name = $3
  sub(/:$/, "", verdict)
  if (package != "test/links") {
    if ($0 ~ /^---/) { row(package); count[package, kernels, verdict]++; packages[package] = 1 }
    next
  }
  if (name ~ /^Test(Kinds|SingleAddresses|WireGuard)$/) next # its subtests have rows
  row(name)
  cell[name, kernels] = verdict == "PASS" ? "yes" : verdict == "FAIL" ? "**no**" : "skipped"
}

# row keeps the order in which rows come.
function row(name) { if (!(name in seen)) { seen[name] = 1; rows[++n] = name } }

END {
  line = "| what | test |"
  rule = "| --- | --- |"
  for (k = 1; k <= kernels; k++) { line = line " " head[k] " |"; rule = rule " --- |" }
  print line "\n" rule
  for (i = 1; i <= n; i++) {
    name = rows[i]
    test = name
    sub(/\/.*/, "", test)
    line = "| " (name in packages ? "all tests of `" name "` | |" : what[name] " | `" test "` |")
    for (k = 1; k <= kernels; k++) {
      text = cell[name, k]
      if (name in packages) {
        p = count[name, k, "PASS"] + 0; f = count[name, k, "FAIL"] + 0; s = count[name, k, "SKIP"] + 0
        text = p + f + s == 0 ? "" : p " passed" (f ? ", **" f " failed**" : "") (s ? ", " s " skipped" : "")
      }
      line = line " " (text == "" ? "not run" : text) " |"
    }
    print line
  }
}
