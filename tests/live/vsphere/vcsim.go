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
	"sync"

	"github.com/vmware/govmomi/simulator"
	_ "github.com/vmware/govmomi/vapi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// The VM that is being created. Two at once make the simulator panic: it looks for equal names among VMs that have no name yet.
var creating sync.Mutex

// Start a task that creates a VM when the one before it has ended.
func inTurn(ctx *simulator.Context, start func() *types.ManagedObjectReference) {
	creating.Lock()
	started := start()
	if started == nil {
		creating.Unlock()
		return
	}
	go func() {
		defer creating.Unlock()
		ctx.Map.Get(*started).(*simulator.Task).Wait()
	}()
}

// A folder that creates one VM at a time.
type folder struct {
	*simulator.Folder
	Self types.ManagedObjectReference
}

func (f *folder) Reference() types.ManagedObjectReference { return f.Self }

func (f *folder) CreateVMTask(ctx *simulator.Context, req *types.CreateVM_Task) (answer soap.HasFault) {
	inTurn(ctx, func() *types.ManagedObjectReference {
		body := f.Folder.CreateVMTask(ctx, req).(*methods.CreateVM_TaskBody)
		answer = body
		if body.Res == nil {
			return nil
		}
		return &body.Res.Returnval
	})
	return answer
}

// A machine that can be cloned while it runs, which the simulator's cannot: a clone that is powered on, with what the specification
// of an InstantClone has. That its memory is another's is for the stand-in host to see to, which is told whose.
type running struct {
	*simulator.VirtualMachine
	Self types.ManagedObjectReference
}

func (vm *running) Reference() types.ManagedObjectReference { return vm.Self }

func (vm *running) CloneVMTask(ctx *simulator.Context, req *types.CloneVM_Task) (answer soap.HasFault) {
	inTurn(ctx, func() *types.ManagedObjectReference {
		body := vm.VirtualMachine.CloneVMTask(ctx, req).(*methods.CloneVM_TaskBody)
		answer = body
		if body.Res == nil {
			return nil
		}
		return &body.Res.Returnval
	})
	return answer
}

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

// A collector whose filters learn of a changed view without a lock. The simulator tells a filter of it while it holds the locks of the
// view and of the VM that changed, and waits for the filter's lock; a client that waits for updates holds the filter's lock, and waits
// for those of the view and of the VMs. When both happen at once, the simulator stands still for ever.
type unlocked struct {
	*simulator.PropertyCollector
	Self types.ManagedObjectReference
}

func (pc *unlocked) Reference() types.ManagedObjectReference { return pc.Self }

func (pc *unlocked) CreateFilter(ctx *simulator.Context, req *types.CreateFilter) soap.HasFault {
	body := pc.PropertyCollector.CreateFilter(ctx, req)
	made := body.(*methods.CreateFilterBody).Res.Returnval
	// A registry has one handler for a reference, so this one replaces the filter itself.
	ctx.Map.AddHandler(&toldLater{ctx.Session.Get(made).(*simulator.PropertyFilter), pc.PropertyCollector})
	return body
}

type toldLater struct {
	*simulator.PropertyFilter
	collector *simulator.PropertyCollector
}

func (filter *toldLater) UpdateObject(ctx *simulator.Context, object mo.Reference, changes []types.PropertyChange) {
	view := object.Reference()
	if !slices.ContainsFunc(filter.Spec.ObjectSet, func(set types.ObjectSpec) bool { return set.Obj == view }) {
		return
	}
	// Locks belong to a context: with its own, this one waits for its turn.
	own := &simulator.Context{Map: ctx.Map}
	go func() {
		filter.PropertyFilter.UpdateObject(own, object, changes)
		// The collector looked before the filter knew, perhaps; so it looks again.
		filter.collector.UpdateObject(own, object, changes)
	}()
}

// The object of ours that takes a call instead of the simulator's; nil if the simulator's takes it. Ours has a reference of its own,
// since a session looks for the object of a reference among its own first.
func instead(ctx *simulator.Context, method *simulator.Method) mo.Reference {
	if ctx.Session == nil {
		return nil
	}
	ours := types.ManagedObjectReference{Type: "Our" + method.This.Type, Value: method.This.Value}
	var object mo.Reference
	switch theirs := ctx.Session.Get(method.This).(type) {
	case *simulator.PropertyCollector:
		if method.Name == "CreateFilter" {
			object = &unlocked{theirs, ours}
		}
	case *simulator.Folder:
		if method.Name == "CreateVM_Task" {
			object = &folder{theirs, ours}
		}
	case *simulator.VirtualMachine:
		if method.Name == "CloneVM_Task" || method.Name == "InstantClone_Task" && ctx.Map.IsVPX() {
			object = &running{theirs, ours}
		}
	}
	if object != nil {
		method.This = ours
	}
	return object
}

// What the simulator does otherwise than a vCenter.
func differently(ctx *simulator.Context, method *simulator.Method) types.BaseMethodFault {
	if req, ok := method.Body.(*types.LoginExtensionByCertificate); ok {
		// It lets an extension in that nobody has registered.
		manager := ctx.Map.Get(types.ManagedObjectReference{Type: "ExtensionManager", Value: "ExtensionManager"})
		known := func(one types.Extension) bool { return one.Key == req.ExtensionKey }
		if !slices.ContainsFunc(manager.(*simulator.ExtensionManager).ExtensionList, known) {
			return new(types.InvalidLogin)
		}
	}
	return nil
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
		if object := instead(ctx, method); object != nil {
			return object, nil
		}
		if *esx {
			return nil, nil
		}
		return nil, differently(ctx, method)
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
