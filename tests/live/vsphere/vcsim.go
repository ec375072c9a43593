// VMware's simulator of vCenter and ESXi as a program: govmomi is a library in Go's module proxy, its command is not.
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log"
	"net/url"
	"os"

	"github.com/vmware/govmomi/simulator"
	_ "github.com/vmware/govmomi/vapi/simulator"
)

func main() {
	esx := flag.Bool("esx", false, "a lone ESXi rather than a vCenter")
	listen := flag.String("l", "127.0.0.1:0", "address to listen at")
	user := flag.String("username", "user", "")
	password := flag.String("password", "pass", "")
	hosts := flag.Int("host", 2, "hosts of the cluster")
	datastores := flag.Int("ds", 1, "datastores")
	portgroups := flag.Int("pg", 2, "distributed portgroups")
	delay := flag.Int("delay", 0, "milliseconds before each answer")
	certificate := flag.String("tlscert", "", "PEM file; else one that is in the library")
	key := flag.String("tlskey", "", "PEM file")
	flag.Parse()

	model := simulator.VPX()
	if *esx {
		model = simulator.ESX()
	} else {
		model.Host, model.Cluster, model.ClusterHost, model.Portgroup = 0, 1, *hosts, *portgroups
	}
	model.Machine = 0
	model.Datastore = *datastores
	model.DelayConfig.Delay = *delay
	if err := model.Create(); err != nil {
		log.Fatal(err)
	}
	model.Service.RegisterEndpoints = true
	model.Service.TLS = new(tls.Config)
	if *certificate != "" {
		pair, err := tls.LoadX509KeyPair(*certificate, *key)
		if err != nil {
			log.Fatal(err)
		}
		model.Service.TLS.Certificates = []tls.Certificate{pair}
	}
	model.Service.Listen = &url.URL{Host: *listen, User: url.UserPassword(*user, *password)}
	server := model.Service.NewServer()
	fmt.Println(server.URL.Host)
	// Whoever started it ends it by closing its standard input.
	_, _ = io.Copy(io.Discard, os.Stdin)
	// Not by closing the server, which waits for those who wait for updates.
	model.Remove()
}
