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
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	_ "github.com/vmware/govmomi/vapi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// A machine that can be cloned while it runs, which the simulator's cannot: a clone that is powered on, with what the specification
// of an InstantClone has. That its memory is another's is for the stand-in host to see to, which is told whose.
type running struct {
	*simulator.VirtualMachine
	Self types.ManagedObjectReference
}

func (vm *running) Reference() types.ManagedObjectReference { return vm.Self }

func (vm *running) InstantCloneTask(ctx *simulator.Context, req *types.InstantClone_Task) soap.HasFault {
	refuse := func(fault types.BaseMethodFault) soap.HasFault {
		return &methods.InstantClone_TaskBody{Fault_: simulator.Fault("", fault)}
	}
	if vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
		return refuse(&types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOn, ExistingState: vm.Runtime.PowerState,
		})
	}
	for _, change := range req.Spec.Location.DeviceChange {
		spec := change.GetVirtualDeviceConfigSpec()
		if _, card := spec.Device.(types.BaseVirtualEthernetCard); !card || spec.Operation != types.VirtualDeviceConfigSpecOperationEdit {
			return refuse(&types.InvalidArgument{InvalidProperty: "spec.location.deviceChange"})
		}
	}
	folder := vm.Parent
	if req.Spec.Location.Folder != nil {
		folder = req.Spec.Location.Folder
	}
	source := &types.OptionValue{Key: "standin.source", Value: vm.Config.InstanceUuid}
	body := vm.CloneVMTask(ctx, &types.CloneVM_Task{
		This: vm.VirtualMachine.Self, Folder: *folder, Name: req.Spec.Name,
		Spec: types.VirtualMachineCloneSpec{
			Location: req.Spec.Location, PowerOn: true,
			Config: &types.VirtualMachineConfigSpec{Uuid: req.Spec.BiosUuid, ExtraConfig: append(req.Spec.Config, source)},
		},
	}).(*methods.CloneVM_TaskBody)
	if body.Fault_ != nil {
		return &methods.InstantClone_TaskBody{Fault_: body.Fault_}
	}
	return &methods.InstantClone_TaskBody{Res: &types.InstantClone_TaskResponse{Returnval: body.Res.Returnval}}
}

// A list whose change locks what the simulator locks while it looks at the list, and in the same order: filters first. The simulator
// takes the list's lock first, and stands still for ever when both happen at once.
type ordered struct {
	*simulator.ListView
	Self types.ManagedObjectReference
}

func (list *ordered) Reference() types.ManagedObjectReference { return list.Self }

func (list *ordered) ModifyListView(ctx *simulator.Context, req *types.ModifyListView) soap.HasFault {
	filters := ctx.Session.AllReference("PropertyFilter")
	slices.SortFunc(filters, func(a, b mo.Reference) int { return strings.Compare(a.Reference().Value, b.Reference().Value) })
	for _, filter := range filters {
		defer ctx.Map.AcquireLock(ctx, filter)()
	}
	defer ctx.Map.AcquireLock(ctx, list.ListView)()
	return list.ListView.ModifyListView(ctx, req)
}

func inOrder(ctx *simulator.Context, method *simulator.Method) mo.Reference {
	if method.Name != "ModifyListView" || ctx.Session == nil {
		return nil
	}
	list, ok := ctx.Session.Get(method.This).(*simulator.ListView)
	if !ok {
		return nil
	}
	method.This.Type = "Ordered" + method.This.Type
	return &ordered{list, method.This}
}

// What the simulator does otherwise than a vCenter.
func differently(ctx *simulator.Context, method *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	if req, ok := method.Body.(*types.LoginExtensionByCertificate); ok {
		// It lets an extension in that nobody has registered.
		manager := ctx.Map.Get(types.ManagedObjectReference{Type: "ExtensionManager", Value: "ExtensionManager"})
		known := func(one types.Extension) bool { return one.Key == req.ExtensionKey }
		if !slices.ContainsFunc(manager.(*simulator.ExtensionManager).ExtensionList, known) {
			return nil, new(types.InvalidLogin)
		}
	}
	if method.Name == "InstantClone_Task" {
		if vm, ok := ctx.Map.Get(method.This).(*simulator.VirtualMachine); ok {
			// Not by what is returned here, which a session's own objects go before.
			method.This = types.ManagedObjectReference{Type: "Running" + vm.Self.Type, Value: vm.Self.Value}
			return ctx.Map.Put(&running{vm, method.This}), nil
		}
	}
	return nil, nil
}

func main() {
	esx := flag.Bool("esx", false, "a lone ESXi rather than a vCenter")
	vsan := flag.Bool("vsan", false, "its datastores are vSAN's")
	listen := flag.String("l", "127.0.0.1:0", "address to listen at")
	user := flag.String("username", "user", "")
	password := flag.String("password", "pass", "")
	hosts := flag.Int("host", 2, "hosts of the cluster")
	datastores := flag.Int("ds", 1, "datastores")
	portgroups := flag.Int("pg", 2, "distributed portgroups")
	delay := flag.Int("delay", 0, "milliseconds before each answer")
	api := flag.String("api", "8.0.2.0", "version of the API that it says it has")
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
	model.ServiceContent.About.ApiVersion = *api
	model.Datastore = *datastores
	model.DelayConfig.Delay = *delay
	if err := model.Create(); err != nil {
		log.Fatal(err)
	}
	if *vsan {
		for _, one := range model.Map().All("Datastore") {
			datastore := one.(*simulator.Datastore)
			datastore.Summary.Type = string(types.HostFileSystemVolumeFileSystemTypeVsan)
			datastore.Capability.TopLevelDirectoryCreateSupported = types.NewBool(false)
		}
	}
	model.Map().Handler = func(ctx *simulator.Context, method *simulator.Method) (mo.Reference, types.BaseMethodFault) {
		if list := inOrder(ctx, method); list != nil {
			return list, nil
		}
		if *esx {
			return nil, nil
		}
		return differently(ctx, method)
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
